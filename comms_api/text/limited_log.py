"""Log enrollments, logins and refusals, with a limit per minute, since clients can cause any number of them."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from comms_api.errors import Conflict, Forbidden, Invalid, NotFound, TooManyRequests, Unauthenticated
from comms_api.text.printable import escape_controls

MINUTE_SECONDS = 60.0
LINES_MAXIMUM = 60
CHARACTERS_MAXIMUM = 512

_REFUSALS = (Conflict, Forbidden, Invalid, NotFound, TooManyRequests, Unauthenticated)


class LimitedLog:
    """Writes at most 60 lines a minute of one level, then the number of omitted lines."""

    def __init__(self, logger: logging.Logger, level: int, now: Callable[[], float] = time.monotonic) -> None:
        self._logger = logger
        self._level = level
        self._now = now
        self._minute_began_at = -MINUTE_SECONDS
        self._lines = 0

    def write(self, text: str) -> None:
        """Log a line safely; it may contain any characters from a client."""
        if self._now() - self._minute_began_at >= MINUTE_SECONDS:
            if self._lines > LINES_MAXIMUM:
                self._logger.log(self._level, "%d more lines like these were omitted", self._lines - LINES_MAXIMUM)
            self._minute_began_at, self._lines = self._now(), 0
        self._lines += 1
        if self._lines <= LINES_MAXIMUM:
            self._logger.log(self._level, "%s", escape_controls(text[:CHARACTERS_MAXIMUM]))

    @contextmanager
    def refusals(self, attempt: str, address: str | None) -> Iterator[None]:
        """Log the error if the block raises a refusal."""
        try:
            yield
        except _REFUSALS as error:
            self.write(f"{attempt} from {address} refused: {error.detail}")
            raise
