"""Long work waits until the event loop is quiet, but it also progresses on a loop that is never quiet."""

import asyncio
import time

import pytest

from comms_api.fairness.quiet import QUIET_CPU_SECONDS, QUIET_SECONDS, SLICE_SECONDS, Pauses, QuietQueue
from comms_api.fairness.rounds import BUSY_SECONDS
from comms_api.fairness.slices import LONG_SLICES, Slices, Steps
from comms_api.fairness.slices import SLICE_SECONDS as LOOP_SLICE_SECONDS

pytestmark = pytest.mark.anyio


def compute(seconds: float) -> None:
    """Use CPU time on this thread."""
    began = time.thread_time()
    while time.thread_time() - began < seconds:
        pass


async def test_long_work_begins_rarely_on_a_busy_loop_and_continues_once_it_is_quiet() -> None:
    queue, begun = QuietQueue(), list[float]()

    async def begin() -> None:
        await queue.wait_for_turn("long")
        begun.append(time.perf_counter())

    waiting = [asyncio.create_task(begin()) for _ in range(100)]
    started = time.perf_counter()
    for _ in range(50):
        compute(0.001)
        await asyncio.sleep(0)
    assert len(begun) <= 1 + (time.perf_counter() - started) / BUSY_SECONDS
    await asyncio.gather(*waiting)


async def test_long_work_progresses_on_a_loop_that_is_never_quiet() -> None:
    queue, is_done = QuietQueue(), False

    async def work() -> None:
        nonlocal is_done
        for _ in range(5):
            await queue.wait_for_turn("long")
        is_done = True

    working = asyncio.create_task(work())
    while not is_done:
        compute(2 * QUIET_CPU_SECONDS)
        await asyncio.sleep(0)
    await working


class RecordedQueue(QuietQueue):
    """Counts the pieces that have waited."""

    pieces = 0

    async def wait_for_turn(self, group: object) -> None:
        self.pieces += 1
        await super().wait_for_turn(group)


async def test_a_computation_waits_for_a_quiet_loop_once_it_is_long() -> None:
    slices = Slices()
    slices.long_turns = recorded = RecordedQueue()

    def computation(length: int) -> Steps[int]:
        for _ in range(length):
            compute(LOOP_SLICE_SECONDS)
            yield None
        return length

    assert await slices.run(computation(LONG_SLICES)) == LONG_SLICES
    assert recorded.pieces == 0
    assert await slices.run(computation(LONG_SLICES + 5)) == LONG_SLICES + 5
    assert recorded.pieces == 5


async def test_a_thread_pauses_when_the_event_loop_has_worked() -> None:
    pauses = Pauses()

    def seconds_of_a_call() -> float:
        compute(SLICE_SECONDS)
        began = time.perf_counter()
        pauses()
        return time.perf_counter() - began

    compute(2 * QUIET_CPU_SECONDS)
    assert await asyncio.to_thread(seconds_of_a_call) >= QUIET_SECONDS
