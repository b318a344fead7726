"""Let a bounded number of pieces of work run at once, and a bounded number wait for a bounded time."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager

from comms_api.errors import Unavailable
from comms_api.fairness.slots import Slots

CLIENTS_TO_FILL = 4
"""One client may take a quarter of the places in the queue."""


class Queue:
    """A queue for a number of slots, in which clients take turns.

    At most `waiting_maximum` pieces of work wait, each for at most `wait_seconds`. `work` is their plural name.
    """

    def __init__(self, work: str, slots: int, waiting_maximum: int, wait_seconds: float) -> None:
        self._work = work
        self._slots = Slots(slots)
        self._waiting: Counter[Hashable] = Counter()
        self._waiting_maximum = waiting_maximum
        self._share = max(1, waiting_maximum // CLIENTS_TO_FILL)
        self._wait_seconds = wait_seconds

    @asynccontextmanager
    async def turn(self, client: Hashable) -> AsyncIterator[None]:
        """Hold a slot for the block; raises `Unavailable` if the queue is full, or if no slot is free in time."""
        if not self._slots.take_free():
            await self._wait(client)
        try:
            yield
        finally:
            self._slots.release()

    async def _wait(self, client: Hashable) -> None:
        if self._waiting[client] >= self._share or self._waiting.total() >= self._waiting_maximum:
            raise Unavailable(f"Too many {self._work} are waiting; try again later.")
        self._waiting[client] += 1
        try:
            async with asyncio.timeout(self._wait_seconds):
                await self._slots.acquire(client)
        except TimeoutError:
            raise Unavailable(f"Too many {self._work} are in progress; try again later.") from None
        finally:
            self._waiting[client] -= 1
            if not self._waiting[client]:
                del self._waiting[client]
