"""Let long work wait until the event loop is quiet, so that requests in progress hardly notice it.

A request waits for its client and for the database many times. In each of these pauses of a millisecond or two, the
loop is idle, but a slice that begins then delays the request's next step.
"""

import asyncio
import threading
import time

from comms_api.fairness.rounds import BUSY_SECONDS, IDLE_SECONDS
from comms_api.fairness.turns import Turns

QUIET_SECONDS = 0.002
"""The loop is quiet if it has hardly used any CPU time for this long. It stays quiet until a round is not idle."""

QUIET_CPU_SECONDS = 0.0001

SLICE_SECONDS = 0.00025
"""A thread that executes Python looks this often whether the loop has worked."""


class QuietQueue:
    """Pieces of long work on the event loop: a piece begins while the loop is quiet, or `BUSY_SECONDS` after another.

    Groups take turns.
    """

    def __init__(self) -> None:
        self._turns = Turns()
        self._is_quiet = False
        self._granted_at = 0.0

    async def wait_for_turn(self, group: object) -> None:
        """Return when a piece of this group's work may begin; it lasts until the caller waits for anything."""
        if not self._turns:
            self._watch(asyncio.get_running_loop())
        await self._turns.join(group)

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._is_quiet:
            loop.call_soon(self._begin_round, loop)  # after a piece that begins in this round
        else:
            loop.call_later(QUIET_SECONDS, self._end_pause, loop, time.thread_time())

    def _begin_round(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.call_soon(self._end_round, loop, time.perf_counter())

    def _end_round(self, loop: asyncio.AbstractEventLoop, began: float) -> None:
        self._grant(loop, is_quiet=time.perf_counter() - began < IDLE_SECONDS)

    def _end_pause(self, loop: asyncio.AbstractEventLoop, used_seconds: float) -> None:
        self._grant(loop, is_quiet=time.thread_time() - used_seconds < QUIET_CPU_SECONDS)

    def _grant(self, loop: asyncio.AbstractEventLoop, *, is_quiet: bool) -> None:
        self._is_quiet, now = is_quiet, time.perf_counter()
        if is_quiet or now - self._granted_at > BUSY_SECONDS:
            self._granted_at = now
            self._turns.grant()
        if self._turns:
            self._watch(loop)


class Pauses:
    """Calls of a thread that executes Python: a call sleeps while the event loop needs the interpreter.

    It must be made on the event loop. The thread calls it after each short step.
    """

    def __init__(self) -> None:
        find_clock = getattr(time, "pthread_getcpuclockid", None)  # macOS has none: there, no call sleeps
        self._clock: int | None = find_clock and find_clock(threading.get_ident())
        self._used_seconds = self._find_used_seconds()
        self._continued_at = time.perf_counter()

    def __call__(self) -> None:
        """Return at once until the loop has worked; then when it is quiet, or `BUSY_SECONDS` later."""
        now = time.perf_counter()
        if now - self._continued_at < SLICE_SECONDS:
            return
        while self._has_loop_worked() and time.perf_counter() - now < BUSY_SECONDS:
            time.sleep(QUIET_SECONDS)
        self._continued_at = time.perf_counter()

    def _has_loop_worked(self) -> bool:
        before, self._used_seconds = self._used_seconds, self._find_used_seconds()
        return self._used_seconds - before > QUIET_CPU_SECONDS

    def _find_used_seconds(self) -> float:
        return 0.0 if self._clock is None else time.clock_gettime(self._clock)
