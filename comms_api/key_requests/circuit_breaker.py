"""Stop asking a source that keeps failing; then ask it one question at intervals until it answers."""

import logging
import time
from collections.abc import Callable

from comms_api.key_requests.answers import BadAnswer
from comms_api.key_requests.model import ExternalAgent, Question, Refusal
from comms_api.key_requests.sources.source import Source, SourceUnavailable

logger = logging.getLogger(__name__)

FAILURES_MAXIMUM = 5
PAUSE_SECONDS = 5.0


class CircuitOpen(SourceUnavailable):
    """The external source of agents keeps failing and is not asked for a few seconds; try again later."""


class CircuitBreaker:
    """Pauses a source for `PAUSE_SECONDS` after `FAILURES_MAXIMUM` transport failures in a row."""

    def __init__(self, source: Source, clock: Callable[[], float] = time.monotonic) -> None:
        self._source = source
        self._clock = clock
        self._failures = 0
        self._paused_until = 0.0

    async def ask(self, question: Question, seconds: float) -> ExternalAgent | Refusal:
        """Ask the source; raises `CircuitOpen` at once during a pause. A bad answer is not a transport failure."""
        self._admit()
        try:
            answer = await self._source.ask(question, seconds)
        except SourceUnavailable as error:
            self._count_failure(error.reason)
            raise
        except BadAnswer:
            self._failures = 0
            raise
        self._failures = 0
        return answer

    def _admit(self) -> None:
        if self._failures < FAILURES_MAXIMUM:
            return
        if self._clock() < self._paused_until:
            raise CircuitOpen(f"it failed {self._failures} times in a row")
        # Let one question through, and refuse others during the next pause.
        self._paused_until = self._clock() + PAUSE_SECONDS

    def _count_failure(self, reason: str) -> None:
        self._failures += 1
        if self._failures >= FAILURES_MAXIMUM:
            self._paused_until = self._clock() + PAUSE_SECONDS
        if self._failures == FAILURES_MAXIMUM:
            message = "%d failures in a row; the source is asked every %g s until it answers: %s"
            logger.warning(message, self._failures, PAUSE_SECONDS, reason)
