"""Show the nodes to operators, and pass on their requests.

A notification makes each node apply a request at once. If it is lost, the node's next heartbeat applies the request.
"""

from collections.abc import Sequence
from functools import partial

from comms_api.cluster import store
from comms_api.cluster.model import (
    FORGOTTEN_AFTER_SECONDS,
    ForgottenNode,
    NodeAgents,
    NodeStatus,
    RebalancedProcess,
    RequestedState,
    WantedState,
)
from comms_api.database.connection import Engine
from comms_api.database.housekeeping import HOUSEKEEPING_SECONDS, transaction_duty
from comms_api.database.listener import Notifier
from comms_api.database.liveness import LOST_AFTER_SECONDS
from comms_api.duties.repeating import Duty
from comms_api.errors import Conflict, NotFound

NODES_CHANNEL = "comms_api_nodes"

TOLERATED_CROWDING = 1.1
"""The greatest ratio of a process's polls to the mean at which it redirects no agents."""


class Cluster:
    """All nodes that share the database."""

    def __init__(self, engine: Engine, notifier: Notifier) -> None:
        self._engine = engine
        self._notifier = notifier

    def duties(self) -> Sequence[Duty]:
        """Return the duty that deletes nodes that have been lost for an hour."""
        forget = partial(store.forget_lost, silent_seconds=FORGOTTEN_AFTER_SECONDS)
        return [transaction_duty("lost nodes", self._engine, HOUSEKEEPING_SECONDS, forget)]

    async def list(self) -> Sequence[NodeStatus]:
        """Return every process of every node, including processes lost within the last hour."""
        async with self._engine.connect() as connection:
            return await store.list_nodes(connection)

    async def count_agents(self) -> Sequence[NodeAgents]:
        """Return the number of active agents by the node that saw them last."""
        async with self._engine.connect() as connection:
            return await store.count_agents(connection)

    async def request_state(self, name: str, state: WantedState) -> RequestedState:
        """Request that a node drains, or is active again; idempotent. Raises `NotFound`."""
        async with self._engine.begin() as connection:
            await store.lock_names(connection)
            workers = await store.request_state(connection, name, state)
        if not workers:
            raise NotFound(f"There is no node {name!r}.")
        self._notifier.notify(NODES_CHANNEL)
        return RequestedState(name, state, workers)

    async def forget(self, name: str) -> ForgottenNode:
        """Remove the lost processes of a node. Raises `NotFound`, and `Conflict` if none of them is lost."""
        async with self._engine.begin() as connection:
            workers = await store.forget_lost(connection, LOST_AFTER_SECONDS, name)
            is_live = not workers and await store.has_name(connection, name)
        if is_live:
            raise Conflict(f"The node {name!r} is not lost.")
        if not workers:
            raise NotFound(f"There is no node {name!r}.")
        return ForgottenNode(name, workers)

    async def rebalance(self) -> Sequence[RebalancedProcess]:
        """Request that crowded processes redirect agents, down to the mean and for a minute at most; idempotent."""
        async with self._engine.begin() as connection:
            rebalanced = await store.rebalance(connection, TOLERATED_CROWDING)
        if rebalanced:
            self._notifier.notify(NODES_CHANNEL)
        return rebalanced
