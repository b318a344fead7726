"""The figures of the first page, computed at most every few seconds for all viewers of a node together."""

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec

from comms_api.agents.model import AgentCounts
from comms_api.agents.service import Agents
from comms_api.cluster.model import NodeStatus
from comms_api.cluster.service import Cluster
from comms_api.events.reading.model import EventCounts
from comms_api.events.reading.service import EventReader
from comms_api.orders.model import RecentCounts
from comms_api.orders.service import StoredOrders

FRESH_SECONDS = 5.0
PAUSE = 50
"""After reading, the figures stay for this many times the time that it took: a large fleet is counted less often."""

EVENTS_PERIOD = timedelta(minutes=30)
EVENTS_INTERVALS = 60
ORDERS_SECONDS = 3_600.0


class Summary(msgspec.Struct, frozen=True):
    """The state of the fleet."""

    agents: AgentCounts
    nodes: Sequence[NodeStatus]
    orders: RecentCounts
    events: EventCounts


class Overview:
    """Summarises the fleet; viewers that ask at the same time wait for the same figures."""

    def __init__(self, agents: Agents, cluster: Cluster, orders: StoredOrders, events: EventReader) -> None:
        self._agents = agents
        self._cluster = cluster
        self._orders = orders
        self._events = events
        self._summary: Summary | None = None
        self._fresh_until = 0.0
        self._lock = asyncio.Lock()

    async def read(self) -> Summary:
        """Return figures that are at most `FRESH_SECONDS` old, or older if reading them takes long."""
        async with self._lock:
            began_at = time.monotonic()
            if self._summary is None or began_at > self._fresh_until:
                self._summary = await self._read()
                read_at = time.monotonic()
                self._fresh_until = read_at + max(FRESH_SECONDS, PAUSE * (read_at - began_at))
            return self._summary

    async def _read(self) -> Summary:
        now = datetime.now(UTC)
        return Summary(
            await self._agents.count(),
            await self._cluster.list(),
            await self._orders.count_recent(ORDERS_SECONDS),
            await self._events.count(now - EVENTS_PERIOD, now, EVENTS_INTERVALS),
        )
