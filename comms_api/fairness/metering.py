"""Measure a coroutine's CPU time on the event loop, in total and for each step.

A step runs between two waits, and nothing else runs on the event loop during a step. The thread's CPU time is measured,
so a busy machine does not make a step longer.
"""

import logging
import time
from collections.abc import Coroutine, Generator
from typing import Any, TypeVar

T = TypeVar("T")
logger = logging.getLogger(__name__)

STEP_SECONDS_MAXIMUM = 0.05
"""Longer steps are logged, because all other tasks had to wait."""


class Metered(Coroutine[Any, Any, T]):
    """Runs a coroutine and measures it; `name` is for the log."""

    __slots__ = ("_earlier_seconds", "_inner", "_step_began", "_taken_seconds", "name")

    def __init__(self, inner: Coroutine[Any, Any, T], name: str) -> None:
        self._inner = inner
        self._earlier_seconds = 0.0
        self._step_began = self._taken_seconds = 0.0
        self.name = name

    @property
    def seconds(self) -> float:
        """The CPU time of the steps that have ended."""
        return self._earlier_seconds

    def take_seconds(self) -> float:
        """Return the CPU time since the last call; only the coroutine itself may call this."""
        seconds = self._earlier_seconds + time.thread_time() - self._step_began
        taken, self._taken_seconds = seconds - self._taken_seconds, seconds
        return taken

    def send(self, value: Any) -> Any:
        """Run one step."""
        self._step_began = time.thread_time()
        try:
            return self._inner.send(value)
        finally:
            self._end_step()

    def throw(self, *error: Any) -> Any:
        """Run one step that begins with an exception."""
        self._step_began = time.thread_time()
        try:
            return self._inner.throw(*error)
        finally:
            self._end_step()

    def _end_step(self) -> None:
        seconds = time.thread_time() - self._step_began
        self._earlier_seconds += seconds
        if seconds > STEP_SECONDS_MAXIMUM:
            logger.warning("%s blocked the event loop for %.0f ms", self.name, seconds * 1000)

    def close(self) -> None:
        """End the coroutine."""
        self._inner.close()

    def __await__(self) -> Generator[Any, Any, T]:
        """Run as part of another coroutine, without measuring."""
        return self._inner.__await__()
