"""Bound how much of one client's work is in progress at once."""

import asyncio
from collections import Counter, deque
from collections.abc import Hashable


class Concurrency:
    """Lets each client have at most `maximum` pieces of work in progress; its other pieces wait in order."""

    def __init__(self, maximum: int, wait_seconds: float) -> None:
        self._maximum = maximum
        self._wait_seconds = wait_seconds
        self._running: Counter[Hashable] = Counter()
        self._waiting: dict[Hashable, deque[asyncio.Future[None]]] = {}

    async def begin(self, client: Hashable) -> None:
        """Return when a piece may begin; raises `TimeoutError` when that takes longer than `wait_seconds`."""
        if self._running[client] < self._maximum:
            self._running[client] += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(client, deque()).append(turn)
        try:
            async with asyncio.timeout(self._wait_seconds):
                await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self.end(client)  # the turn came at the same moment
            turn.cancel()
            raise

    def end(self, client: Hashable) -> None:
        """End a piece, and let the next one of its client begin."""
        waiting = self._waiting.get(client, deque())
        while waiting:
            turn = waiting.popleft()
            if not turn.done():  # otherwise it was cancelled
                turn.set_result(None)
                break
        else:
            self._running[client] -= 1
        if not self._running[client]:
            del self._running[client]
        if not waiting:
            self._waiting.pop(client, None)
