"""Follow the events of the fleet: a request waits until events are published, on whichever node that happens."""

import asyncio

from comms_api.database.connection import Engine
from comms_api.fairness.shares import WaitingRequests
from comms_api.fleet import store
from comms_api.fleet.model import FleetEventFilter, FleetTail

FOLLOWERS_MAXIMUM = 50
FOLLOWERS_OF_USER_MAXIMUM = 10


class FleetFollowers:
    """The followers of this node; they take no time until `wake` is called."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.requests = WaitingRequests("follow events of the fleet", FOLLOWERS_OF_USER_MAXIMUM, FOLLOWERS_MAXIMUM)
        self._are_published: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._is_draining = False

    async def read(
        self, event_filter: FleetEventFilter, after: int | None, limit: int, wait_seconds: float
    ) -> FleetTail:
        """Return the next events after a position, or from now on; wait until there are some.

        The answer may be empty: after the wait, or while the node drains. Raises `Conflict` for a position that no
        event has reached.
        """
        deadline = asyncio.get_running_loop().time() + wait_seconds
        while True:
            are_published = self._are_published
            async with self._engine.connect() as connection:
                tail = await store.read_tail(connection, event_filter, after, limit)
            if tail.items or self._is_draining:
                return tail
            after = tail.next
            try:
                async with asyncio.timeout_at(deadline):
                    await asyncio.shield(are_published)
            except TimeoutError:
                return tail

    def wake(self) -> None:
        """Let the waiting requests look for events."""
        self._are_published.set_result(None)
        self._are_published = asyncio.get_running_loop().create_future()

    def drain(self) -> None:
        """Answer the waiting requests, and later ones at once."""
        self._is_draining = True
        self.wake()
