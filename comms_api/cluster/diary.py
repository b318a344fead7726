"""When each duty of this process last succeeded, and which are late."""

import time

from comms_api.cluster.model import DutyReport

INTERVALS_ALLOWED = 2.0
GRACE_SECONDS = 5.0
"""Beside two intervals, how long a duty may be without success before it is late: a look at the database takes time."""


class Diary:
    """Keeps the last success of each duty."""

    def __init__(self) -> None:
        """Begin with no duty."""
        self._intervals: dict[str, float] = {}
        self._succeeded_at: dict[str, float] = {}

    def begin(self, name: str, interval_seconds: float) -> None:
        """Expect a duty to succeed at intervals from now on."""
        self._intervals[name] = interval_seconds
        self._succeeded_at[name] = time.monotonic()

    def succeeded(self, name: str) -> None:
        """Note a success."""
        self._succeeded_at[name] = time.monotonic()

    def report(self) -> dict[str, DutyReport]:
        """Return each duty's silence and lag."""
        now = time.monotonic()
        return {name: self._report(name, now - moment) for name, moment in self._succeeded_at.items()}

    def _report(self, name: str, silent_seconds: float) -> DutyReport:
        allowed = INTERVALS_ALLOWED * self._intervals[name] + GRACE_SECONDS
        return DutyReport(round(silent_seconds, 1), round(max(0.0, silent_seconds - allowed), 1))
