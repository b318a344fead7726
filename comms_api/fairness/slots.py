"""Bound how many pieces of work run at once, and let clients take turns for the next free slot."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager


class Slots:
    """A number of slots; a client with much waiting work delays another by one piece."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: dict[Hashable, deque[asyncio.Future[None]]] = {}
        """By client, while no slot is free; the first client is next."""

    @asynccontextmanager
    async def slot(self, client: Hashable, deadline: float) -> AsyncIterator[None]:
        """Hold a slot for the block; raises `TimeoutError` if none is free by a time of the event loop's clock."""
        async with asyncio.timeout_at(deadline):
            await self._acquire(client)
        try:
            yield
        finally:
            self._release()

    async def _acquire(self, client: Hashable) -> None:
        if self._free:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(client, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._release()  # the turn came at the same moment
            raise

    def _release(self) -> None:
        while self._waiting:
            client = next(iter(self._waiting))
            turns = self._waiting.pop(client)
            turn = turns.popleft()
            if turns:
                self._waiting[client] = turns  # at the end of the queue
            if not turn.done():  # otherwise it was cancelled
                turn.set_result(None)
                return
        self._free += 1
