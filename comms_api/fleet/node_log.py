"""Log on each node the events of the other nodes: they join, drain, leave, are lost and return."""

import asyncio
import logging
from collections.abc import Sequence
from typing import get_args

import msgspec

from comms_api.database.connection import Engine
from comms_api.duties.repeating import Duty
from comms_api.fleet import store
from comms_api.fleet.model import FleetEvent, NodeEventKind

logger = logging.getLogger(__name__)

SWEEP_SECONDS = 30.0
"""The interval at which to look for events whose notification was lost."""

STEP = 100
SENTENCES = {
    "node_joined": "has joined",
    "node_draining": "is draining",
    "node_resumed": "accepts agents again",
    "node_left": "has left",
    "node_lost": "is lost: its agents count as disconnected until another node sees them",
    "node_returned": "was lost and is back",
}


class _Details(msgspec.Struct, frozen=True):
    worker: int


_DETAILS = msgspec.json.Decoder(_Details)


class NodeLog:
    """Follows the events of nodes from its first pass on; between passes it takes no time until `wake` is called."""

    def __init__(self, engine: Engine, own_name: str) -> None:
        self._engine = engine
        self._own_name = own_name
        self._position: int | None = None
        self._is_due = asyncio.Event()
        self._is_due.set()  # the first pass finds where to begin

    def wake(self) -> None:
        """Look for events now."""
        self._is_due.set()

    def duties(self) -> Sequence[Duty]:
        """Return the duty that logs the events of other nodes."""
        return [Duty("node log", self.follow, SWEEP_SECONDS, wake=self._is_due)]

    async def follow(self) -> None:
        """Log the events since the last pass."""
        async with self._engine.connect() as connection:
            if self._position is None:
                self._position = await store.newest_position(connection)
            events = await store.find_events(connection, get_args(NodeEventKind), self._position, STEP)
        for event in events:
            self._log(event)
            self._position = event.position
        if len(events) == STEP:
            self._is_due.set()

    def _log(self, event: FleetEvent) -> None:
        if event.node != self._own_name:
            level = logging.WARNING if event.kind == "node_lost" else logging.INFO
            worker = _DETAILS.decode(event.details).worker
            logger.log(level, "node %s, process %d: %s", event.node, worker, SENTENCES[event.kind])
