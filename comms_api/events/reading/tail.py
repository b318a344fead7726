"""Follow the stored events: an acknowledged event is never skipped, however late its transaction commits.

Followers walk through batches by transaction, and read only those before the oldest open transaction. Whatever commits
later has a later transaction, so it follows the position of every follower. While requests wait, one duty of the node
looks for new batches; without requests, it does nothing.
"""

import asyncio
import time
from datetime import datetime
from uuid import UUID

from comms_api.database.connection import Engine
from comms_api.database.uuid7 import uuid7_floor
from comms_api.duties.repeating import Duty
from comms_api.events.reading import store
from comms_api.events.reading.model import EventFilter, HeldBack, Tail
from comms_api.events.reading.service import EventReader
from comms_api.events.reading.walks import ByCommit, Walk, decode_cursor
from comms_api.fairness.shares import WaitingRequests

INTERVAL_SECONDS = 0.05
"""The time between two looks for new batches."""

FOLLOWERS_MAXIMUM = 50
FOLLOWERS_OF_USER_MAXIMUM = 10

HELD_BACK_SECONDS = 1.0
"""A transaction that is open for less time is normal."""


class EventTail:
    """The followers of this node."""

    def __init__(self, engine: Engine, reader: EventReader) -> None:
        self._engine = engine
        self._reader = reader
        self.followers = WaitingRequests("follow events", FOLLOWERS_OF_USER_MAXIMUM, FOLLOWERS_MAXIMUM)
        self._newest: tuple[int, UUID] | None = None
        self._has_moved: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting = 0
        self._has_waiting = asyncio.Event()
        self._is_draining = False
        self._oldest_open, self._oldest_since = 0, 0.0
        """The oldest open transaction (0: none), and when this node saw it first."""

    async def read(  # noqa: PLR0913 - the parameters of the route
        self,
        user: str,
        event_filter: EventFilter,
        after: str | None,
        since: datetime | None,
        limit: int,
        wait_seconds: float,
    ) -> Tail:
        """Return the next events after a cursor, from a time on, or from now on; wait until there are some.

        The answer may be empty: after the wait, while the node drains, or when a filter skips many events.
        """
        deadline = asyncio.get_running_loop().time() + wait_seconds
        walk: Walk = await self._begin(after, since)
        while True:
            newest = self._newest
            reading = await self._reader.read(user, event_filter, walk, limit)
            walk = reading.walk
            if reading.events or not reading.is_end:
                return Tail(reading.events, walk.cursor(), None)
            if not await self._wait(newest, deadline):
                return Tail([], walk.cursor(), await self._find_held_back())

    async def _begin(self, after: str | None, since: datetime | None) -> ByCommit:
        async with self._engine.connect() as connection:
            horizon = await store.find_horizon(connection)
        if after is not None:
            return decode_cursor(after, horizon.cluster, horizon.next)
        if since is not None:
            return ByCommit(horizon.cluster, since=uuid7_floor(since))
        return ByCommit(horizon.cluster, horizon.xact, horizon.last_event)

    async def _wait(self, newest: tuple[int, UUID] | None, deadline: float) -> bool:
        """Return whether there are newer batches than `newest` before the deadline."""
        self._waiting += 1
        self._has_waiting.set()
        try:
            async with asyncio.timeout_at(deadline):
                while self._newest == newest and not self._is_draining:
                    await asyncio.shield(self._has_moved)
        except TimeoutError:
            return False
        finally:
            self._waiting -= 1
        return not self._is_draining

    def drain(self) -> None:
        """Answer the waiting requests, and later ones at once."""
        self._is_draining = True
        self._wake()

    def _wake(self) -> None:
        self._has_moved.set_result(None)
        self._has_moved = asyncio.get_running_loop().create_future()

    def duties(self) -> list[Duty]:
        """Return the duty that looks for new batches while requests wait."""
        return [Duty("event tail", self._look, wake=self._has_waiting)]

    async def _look(self) -> None:
        async with self._engine.connect() as connection:
            horizon = await store.find_horizon(connection)
        self._note_oldest(horizon.oldest_open if horizon.oldest_open < horizon.next else 0)
        if (horizon.xact, horizon.last_event) != self._newest:
            self._newest = horizon.xact, horizon.last_event
            self._wake()
        if self._waiting:
            await asyncio.sleep(INTERVAL_SECONDS)
            self._has_waiting.set()

    def _note_oldest(self, number: int) -> None:
        if number != self._oldest_open:
            self._oldest_open, self._oldest_since = number, time.monotonic()

    async def _find_held_back(self) -> HeldBack | None:
        """Return the transaction that holds followers back, with what the database role may see of it."""
        async with self._engine.connect() as connection:
            oldest = await store.find_oldest_transaction(connection)
        if oldest is None:
            return None
        self._note_oldest(oldest.number)
        seconds = max(oldest.seconds or 0.0, time.monotonic() - self._oldest_since)
        return HeldBack(round(seconds, 1), _describe(oldest)) if seconds >= HELD_BACK_SECONDS else None


def _describe(oldest: store.OpenTransaction) -> str:
    named = (
        ("PID", oldest.pid),
        ("user", oldest.user),
        ("application", oldest.application),
        ("database", oldest.database),
        ("prepared transaction", oldest.prepared),
    )
    words = [f"transaction {oldest.number}", *(f"{name} {value}" for name, value in named if value)]
    return ", ".join([*words, *([oldest.state] if oldest.state else [])])
