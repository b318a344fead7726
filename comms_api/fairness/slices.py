"""Run long computations on the event loop in slices, in the time that nobody else needs.

A computation is a generator of short steps. All computations of a node share one turn: at most one slice of them runs
between two rounds of the event loop, however many of them there are. A slice begins when a round had nothing else to
do. On a loop that is never idle, slices still begin at least every `BUSY_SECONDS`.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Generator, Hashable
from typing import TypeAlias, TypeVar

T = TypeVar("T")

SLICE_SECONDS = 0.001
"""The CPU time of a slice; it ends with the first step that exceeds it."""

IDLE_SECONDS = 0.0001
"""A round of the event loop that takes no longer had nothing else to do."""

BUSY_SECONDS = 0.01
"""On a busy loop, a slice begins this long after the one before."""

Steps: TypeAlias = Generator[Hashable, None, T]
"""A computation. After each step of well below a millisecond, it yields the client to charge for the step."""


def charge_nobody(_client: Hashable, _seconds: float) -> None:
    """Charge nobody, or leave that to the request's meter."""


class Slices:
    """Runs the computations of one event loop; `charge` is called with a client and the CPU seconds of a step."""

    def __init__(self, charge: Callable[[Hashable, float], None] = charge_nobody) -> None:
        self._charge = charge
        self._turns = _IdleTurns()

    async def run(self, steps: Steps[T]) -> T:
        """Return the result of a computation outside any request's CPU time, and charge its clients.

        A computation that ends within its first slice runs at once, and awaits nothing.
        """
        return await self._run(steps, self._charge)

    async def run_metered(self, steps: Steps[T]) -> T:
        """Return the result of a computation whose CPU time is charged with its request."""
        return await self._run(steps, charge_nobody)

    async def _run(self, steps: Steps[T], charge: Callable[[Hashable, float], None]) -> T:
        slices = _slices(steps, charge)
        try:
            next(slices)
            while True:
                await self._turns.wait()
                next(slices)
        except StopIteration as end:
            result: T = end.value
            return result


class _IdleTurns:
    """Grants one turn at a time, each in a round of the event loop that follows an idle one."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._granted_at = self._looked_at = 0.0

    async def wait(self) -> None:
        """Return when the caller's turn has come; it lasts until the caller waits for anything."""
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append(turn)
        if len(self._waiting) == 1:
            self._look_again(loop)
        await turn

    def _look_again(self, loop: asyncio.AbstractEventLoop) -> None:
        self._looked_at = time.perf_counter()
        loop.call_soon(self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """Grant a turn if the last round had nothing else to do, or if the last turn was long ago."""
        now = time.perf_counter()
        if now - self._looked_at < IDLE_SECONDS or now - self._granted_at > BUSY_SECONDS:
            self._granted_at = now
            self._grant()
        if self._waiting:
            self._look_again(loop)

    def _grant(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():  # otherwise its request was cancelled
                turn.set_result(None)
                return


def exhaust(steps: Steps[T]) -> T:
    """Return the result of a computation at once."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result


def _slices(steps: Steps[T], charge: Callable[[Hashable, float], None]) -> Generator[None, None, T]:
    """Yield after each slice."""
    began = now = time.thread_time()
    while True:
        try:
            client = next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
        step_began, now = now, time.thread_time()
        charge(client, now - step_began)
        if now - began > SLICE_SECONDS:
            yield
            began = now = time.thread_time()
