"""Threads for blocking work, with a bounded queue per kind, so that one kind never starves another."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import BoundedSemaphore
from typing import TypeVar

from comms_api.errors import Unavailable

_T = TypeVar("_T")


class BoundedExecutor:
    """Runs one kind of work on at most `threads` threads; at most `calls_maximum` calls run or wait at once."""

    def __init__(self, name: str, threads: int, calls_maximum: int) -> None:
        """Start no thread yet; each starts with the first call that needs it."""
        self._name = name
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._places = BoundedSemaphore(calls_maximum)

    async def run(self, call: Callable[[], _T]) -> _T:
        """Return what the call returns; raises `Unavailable` when too many calls wait.

        A call whose caller is cancelled keeps its place until it has ended, so the bound always holds.
        """
        if not self._places.acquire(blocking=False):
            raise Unavailable(f"Too much work for {self._name} is waiting; come back later.")
        future = self._pool.submit(call)
        future.add_done_callback(lambda _: self._places.release())
        return await asyncio.wrap_future(future)
