"""Bound how many pieces of work run at once, and let clients take turns for the next free slot."""

import asyncio
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager

from comms_api.fairness.turns import Turns


class Slots:
    """A number of slots; a client with much waiting work delays another by one piece."""

    def __init__(self, count: int) -> None:
        self.free = count
        self._turns = Turns()

    @asynccontextmanager
    async def slot(self, client: Hashable, deadline: float) -> AsyncIterator[None]:
        """Hold a slot for the block; raises `TimeoutError` if none is free by a time of the event loop's clock."""
        async with asyncio.timeout_at(deadline):
            await self.acquire(client)
        try:
            yield
        finally:
            self.release()

    def take_free(self) -> bool:
        """Take a slot if one is free; return whether one was."""
        if not self.free:
            return False
        self.free -= 1
        return True

    async def acquire(self, client: Hashable) -> None:
        """Take a slot when the client's turn has come."""
        if self.take_free():
            return
        turn = self._turns.join(client)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release()  # the turn came at the same moment
            raise

    def release(self) -> None:
        """Pass a slot on to the next client."""
        if not self._turns.grant():
            self.free += 1
