"""Slow hashes, off the event loop and on threads of their own: they starve no other blocking work."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from comms_api.errors import Unavailable

THREADS = 2
WAITING_MAXIMUM = 64

Parameters = ParamSpec("Parameters")
Outcome = TypeVar("Outcome")


class SlowHashes:
    """Runs calls that take tens of milliseconds, two at a time; a longer queue than the maximum is refused."""

    def __init__(self, name: str, waiting_maximum: int = WAITING_MAXIMUM) -> None:
        """Name the threads; they start with the first call."""
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix=name)
        self._waiting_maximum = waiting_maximum
        self._waiting = 0

    async def run(
        self, call: Callable[Parameters, Outcome], *arguments: Parameters.args, **named: Parameters.kwargs
    ) -> Outcome:
        """Return what `call` returns; raises `Unavailable` when the queue is full."""
        if self._waiting >= self._waiting_maximum:
            raise Unavailable("Too many logins at once; come back later.")
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, lambda: call(*arguments, **named))
        finally:
            self._waiting -= 1
