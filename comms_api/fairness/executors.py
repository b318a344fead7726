"""Run blocking work on threads, with a bounded queue per kind, so that one kind never starves another."""

import asyncio
import os
import sys
from collections import Counter
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import TypeVar

from comms_api.errors import Unavailable

_T = TypeVar("_T")

CLIENTS_TO_FILL = 4

SWITCH_SECONDS = 0.0005
"""The event loop waits this long for a thread that executes Python, each time that it has waited for anything else.

Python's default is 5 ms.
"""


def let_threads_switch_often() -> None:
    """Let threads that compute in Python delay the event loop of this process only briefly."""
    sys.setswitchinterval(SWITCH_SECONDS)


class BoundedExecutor:
    """Runs one kind of work on at most `threads` threads; at most `calls_maximum` calls run or wait at once.

    One client has at most a quarter of the calls. With a `niceness`, other threads and processes have priority.
    """

    def __init__(self, name: str, threads: int, calls_maximum: int, niceness: int = 0) -> None:
        self._name = name
        self._pool = ThreadPoolExecutor(threads, name, _lower_priority, (niceness,))
        self._calls_maximum = calls_maximum
        self._share = max(1, calls_maximum // CLIENTS_TO_FILL)
        self._calls: Counter[Hashable] = Counter()
        self._lock = Lock()

    async def run(self, client: Hashable, call: Callable[[], _T]) -> _T:
        """Run the call and return its result.

        Raises `Unavailable` if too many calls run or wait, of this client or of all clients. A call whose caller is
        cancelled counts until it has ended, so the bound always holds.
        """
        self._begin(client)
        try:
            future = self._pool.submit(call)
        except RuntimeError as error:  # the system refuses another thread
            self._end(client)
            raise Unavailable(f"No thread can be started for {self._name}; try again later.") from error
        future.add_done_callback(lambda _: self._end(client))
        return await asyncio.wrap_future(future)

    def _begin(self, client: Hashable) -> None:
        with self._lock:
            if self._calls[client] >= self._share:
                raise Unavailable(f"Too much of your work for {self._name} is waiting; wait until it ends.")
            if self._calls.total() >= self._calls_maximum:
                raise Unavailable(f"Too much work for {self._name} is waiting; try again later.")
            self._calls[client] += 1

    def _end(self, client: Hashable) -> None:
        with self._lock:
            self._calls[client] -= 1
            if not self._calls[client]:
                del self._calls[client]


def _lower_priority(niceness: int) -> None:
    """Add to the niceness of this thread; only Linux has a niceness for each thread (sched(7))."""
    if niceness and sys.platform == "linux":
        os.nice(niceness)
