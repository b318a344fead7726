"""Run long computations on the event loop in slices, while the loop is idle.

A computation is a generator of short steps. At most one slice runs between two rounds of the event loop, however many
computations there are. A long computation continues only while the loop is quiet.
"""

import time
from collections.abc import Callable, Generator, Hashable
from typing import Any, TypeAlias, TypeVar

from comms_api.fairness.quiet import QuietQueue
from comms_api.fairness.rounds import IdleQueue

T = TypeVar("T")

RELEASED_ITEMS = 500
"""Freeing this many items of a batch takes a few tenths of a millisecond."""

SLICE_SECONDS = 0.0005
"""The CPU time of a slice; it ends with the first step that exceeds it."""

LONG_SLICES = 40
"""A computation is long after this many slices; a batch of a megabyte usually takes fewer."""

Steps: TypeAlias = Generator[Hashable, None, T]
"""A computation. After each step of well below a millisecond, it yields the client to charge for the step."""


def charge_nobody(_client: Hashable, _seconds: float) -> None:
    """Charge nobody; the request's meter may do so."""


class Slices:
    """Runs the computations of one event loop; `charge` is called with a client and the CPU seconds of a step.

    `turns` is shared with other background work of the loop.
    """

    def __init__(self, charge: Callable[[Hashable, float], None] = charge_nobody) -> None:
        self.charge = charge
        self.turns = IdleQueue()
        self.long_turns = QuietQueue()

    async def run(self, steps: Steps[T]) -> T:
        """Return the result of a computation outside any request's CPU time, and charge its clients.

        A computation that ends within its first slice runs at once, and awaits nothing.
        """
        return await self._run(steps, self.charge)

    async def run_metered(self, steps: Steps[T]) -> T:
        """Return the result of a computation whose CPU time is charged with its request."""
        return await self._run(steps, charge_nobody)

    async def _run(self, steps: Steps[T], charge: Callable[[Hashable, float], None]) -> T:
        slices = _slices(steps, charge)
        try:
            for _ in range(LONG_SLICES):
                next(slices)
                await self.turns.wait_for_turn(slices)
            while True:
                next(slices)
                await self.long_turns.wait_for_turn(slices)
        except StopIteration as end:
            result: T = end.value
            return result


def exhaust(steps: Steps[T]) -> T:
    """Run a computation at once, on a thread, and return its result."""
    try:
        while True:
            next(steps)
    except StopIteration as end:
        result: T = end.value
        return result


def release(*lists: list[Any]) -> Steps[None]:
    """Empty lists in steps: freeing hundreds of thousands of objects at once would be one long step."""
    for items in lists:
        while items:
            del items[-RELEASED_ITEMS:]
            yield None


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
