"""Report the progress of commands to clients that watch them; one query per command serves all of its watchers."""

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

from comms_api.database.connection import Engine
from comms_api.duties.repeating import Duty
from comms_api.fairness.shares import WaitingRequests
from comms_api.orders.counts import count_orders
from comms_api.orders.model import Counts

INTERVAL_SECONDS = 0.25
WATCHERS_MAXIMUM = 500
WATCHERS_OF_USER_MAXIMUM = 50


class _Watched:
    """A watched command: its last counts, and a future that ends when they change."""

    def __init__(self) -> None:
        self.watchers = 0
        self.counts: Counts | None = None
        self.next: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def update(self, counts: Counts) -> None:
        """Wake the watchers if the counts have changed."""
        if counts != self.counts:
            self.counts = counts
            self.wake()

    def wake(self) -> None:
        """Wake every watcher."""
        self.next.set_result(None)
        self.next = asyncio.get_running_loop().create_future()


class Watch:
    """The watchers of this node."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._watched: dict[UUID, _Watched] = {}
        self.watchers = WaitingRequests("watch commands", WATCHERS_OF_USER_MAXIMUM, WATCHERS_MAXIMUM)
        self._has_watched = asyncio.Event()
        self._is_draining = False

    async def changes(self, request_id: UUID) -> AsyncIterator[Counts]:
        """Yield the counts of a command, now and after each change, until it is done or the node drains.

        Only the newest counts are kept for a slow reader.
        """
        watched = self._watched.setdefault(request_id, _Watched())
        watched.watchers += 1
        self._has_watched.set()
        seen: Counts | None = None
        try:
            while not (self._is_draining or (seen is not None and seen.is_done)):
                if watched.counts is not None and watched.counts != seen:
                    seen = watched.counts
                    yield seen
                else:
                    await asyncio.shield(watched.next)
        finally:
            watched.watchers -= 1
            if not watched.watchers:
                del self._watched[request_id]

    async def wait(self, request_id: UUID, seconds: float) -> None:
        """Return when a command is done, or after `seconds`, or when the node drains."""
        changes = self.changes(request_id)
        try:
            async with asyncio.timeout(seconds):
                async for _ in changes:
                    pass
        except TimeoutError:
            return

    def drain(self) -> None:
        """End every watch, and end new ones at once."""
        self._is_draining = True
        for watched in self._watched.values():
            watched.wake()

    def duties(self) -> list[Duty]:
        """Return the duty that counts the orders of watched commands."""
        return [Duty("watch", self._count, wake=self._has_watched)]

    async def _count(self) -> None:
        for request_id in list(self._watched):
            async with self._engine.connect() as connection:
                counts = await count_orders(connection, request_id)
            if watched := self._watched.get(request_id):
                watched.update(counts)
        if self._watched:
            await asyncio.sleep(INTERVAL_SECONDS)
            self._has_watched.set()
