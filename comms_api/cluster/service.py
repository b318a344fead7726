"""What operators ask of the cluster; each node learns of it at once, and at its next heartbeat at the latest."""

from collections.abc import Sequence

from comms_api.cluster import store
from comms_api.cluster.model import (
    ForgottenNode,
    NodeAgents,
    NodeStatus,
    RebalancedProcess,
    RequestedState,
    WantedState,
)
from comms_api.database.connection import Engine
from comms_api.database.listener import Notifier
from comms_api.database.liveness import LOST_AFTER_SECONDS
from comms_api.errors import Conflict, NotFound

NODES_CHANNEL = "comms_api_nodes"

TOLERATED_CROWDING = 1.1
"""A process with at most so many times the mean number of polls is left alone."""


class Cluster:
    """All nodes of the database."""

    def __init__(self, engine: Engine, notifier: Notifier) -> None:
        """Take who tells the nodes of what is wanted of them."""
        self._engine = engine
        self._notifier = notifier

    async def list(self) -> Sequence[NodeStatus]:
        """Return every process of every node, those that were lost within the last hour too."""
        async with self._engine.connect() as connection:
            return await store.list_nodes(connection)

    async def count_agents(self) -> Sequence[NodeAgents]:
        """Return how many active agents each node was the last to see."""
        async with self._engine.connect() as connection:
            return await store.count_agents(connection)

    async def want(self, name: str, state: WantedState) -> RequestedState:
        """Want a node to drain, or to be active again; idempotent. Raises `NotFound`."""
        async with self._engine.begin() as connection:
            await store.lock_names(connection)
            workers = await store.want_state(connection, name, state)
        if not workers:
            raise NotFound(f"There is no node {name!r}.")
        self._notifier.notify(NODES_CHANNEL)
        return RequestedState(name, state, workers)

    async def forget(self, name: str) -> ForgottenNode:
        """Remove what is lost of a node. Raises `NotFound`, and `Conflict` when nothing of it is lost."""
        async with self._engine.begin() as connection:
            workers = await store.forget_lost(connection, LOST_AFTER_SECONDS, name)
            is_here = not workers and await store.has_name(connection, name)
        if is_here:
            raise Conflict(f"The node {name!r} is not lost.")
        if not workers:
            raise NotFound(f"There is no node {name!r}.")
        return ForgottenNode(name, workers)

    async def rebalance(self) -> Sequence[RebalancedProcess]:
        """Have crowded processes send agents away, until they are down to the mean or a minute is over; idempotent."""
        async with self._engine.begin() as connection:
            rebalanced = await store.rebalance(connection, TOLERATED_CROWDING)
        if rebalanced:
            self._notifier.notify(NODES_CHANNEL)
        return rebalanced
