"""Track the health of each duty, and log its changes."""

import logging
import time
from collections.abc import Callable
from typing import TypeAlias

import msgspec

from comms_api.errors import CommsError

logger = logging.getLogger(__name__)

INTERVALS_ALLOWED = 2.0
GRACE_SECONDS = 5.0
"""A duty is late when it has not succeeded for two intervals and this time."""

Explain: TypeAlias = Callable[[BaseException], tuple[str, str] | None]
"""Returns a summary and a reason for a temporary error, and None for a bug."""


class HealthLog:
    """The last known health of one dependency, healthy at first."""

    def __init__(self, logger: logging.Logger, name: str) -> None:
        self.trouble = ""
        """The current trouble with its reason; empty if all is well."""

        self._logger = logger
        self._name = name
        self._summary: str | None = None

    def note(self, trouble: str | None, reason: str = "", bug: BaseException | None = None) -> None:
        """Log a new trouble, or with None its end; the same trouble with another reason is not logged again."""
        self.trouble = f"{trouble}{reason and f' ({reason})'}" if trouble else ""
        if trouble != self._summary and trouble is None:
            self._logger.info("%s: all is well", self._name)
        elif trouble != self._summary:
            level = logging.ERROR if bug else logging.WARNING
            self._logger.log(level, "%s: %s", self._name, self.trouble, exc_info=bug)
        self._summary = trouble


class DutyReport(msgspec.Struct, frozen=True):
    """The seconds since a duty succeeded (or its process started), and the excess over the allowed time.

    A duty that is performed on demand only is silent from its first failure to its next success.
    """

    silent_seconds: float = 0.0
    lag_seconds: float = 0.0


class DutyRecord:
    """The health of one duty."""

    def __init__(self, name: str, every_seconds: float | None, explain: Explain) -> None:
        self.failures = 0
        """The number of failed passes since the last success."""

        self.failures_total = 0
        """The number of all failed passes."""

        self._every_seconds = every_seconds
        self._explain = explain
        self._log = HealthLog(logger, name)
        self._silent_since = time.monotonic()

    def succeeded(self) -> None:
        """Note that a pass succeeded."""
        self.failures = 0
        self._silent_since = time.monotonic()
        self._log.note(None)

    def failed(self, error: BaseException) -> None:
        """Note that a pass failed."""
        if self._is_idle:
            self._silent_since = time.monotonic()
        self.failures += 1
        self.failures_total += 1
        if outage := self._explain(error):
            self._log.note(*outage)
        elif isinstance(error, CommsError):
            cause = error.__cause__
            self._log.note(error.detail, f"{type(cause).__name__}: {cause}" if cause else "")
        else:
            self._log.note(f"failed with {type(error).__name__}", bug=error)

    @property
    def _is_idle(self) -> bool:
        return self._every_seconds is None and not self.failures

    @property
    def trouble(self) -> str:
        """The reason why the last pass failed; empty if it succeeded."""
        return self._log.trouble

    def report(self) -> DutyReport:
        """Return the duty's delay."""
        if self._is_idle:
            return DutyReport()
        silent_seconds = time.monotonic() - self._silent_since
        allowed = INTERVALS_ALLOWED * (self._every_seconds or 0.0) + GRACE_SECONDS
        return DutyReport(round(silent_seconds, 1), round(max(0.0, silent_seconds - allowed), 1))


class DutyHealth:
    """The records of all duties of a process, by name."""

    def __init__(self, explain: Explain) -> None:
        self._explain = explain
        self._records: dict[str, DutyRecord] = {}

    def begin(self, name: str, every_seconds: float | None) -> DutyRecord:
        """Expect a duty to succeed from now on, at intervals or on demand."""
        record = self._records[name] = DutyRecord(name, every_seconds, self._explain)
        return record

    def report(self) -> dict[str, DutyReport]:
        """Return the delay of each duty."""
        return {name: record.report() for name, record in self._records.items()}

    def troubles(self) -> dict[str, str]:
        """Return why duties fail now, by their names."""
        return {name: record.trouble for name, record in self._records.items() if record.trouble}

    def failures(self) -> dict[str, float]:
        """Return the number of failed passes of each duty."""
        return {name: record.failures_total for name, record in self._records.items()}
