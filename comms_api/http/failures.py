"""Slow down who fails to log in: by name and by source address, in bounded memory."""

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable

import msgspec

from comms_api.errors import TooManyRequests

REMEMBERED_MAXIMUM = 50_000
LONGEST_SECONDS = 900.0


class _Failures(msgspec.Struct):
    count: float
    at: float
    locked_until: float = 0.0


class FailureLimit:
    """Allows some failures, then locks for a time that doubles with each more; failures are forgotten over time.

    What is remembered is this process's own and bounded: the names that failed longest ago go first.
    """

    def __init__(self, allowed: int, first_seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        """Take how many failures are free, and how long the lock after the first one more is."""
        self._allowed = allowed
        self._first_seconds = first_seconds
        self._now = now
        self._failures: OrderedDict[Hashable, _Failures] = OrderedDict()

    def check(self, name: Hashable) -> None:
        """Raise `TooManyRequests`, with the seconds to wait, while a name is locked."""
        known = self._failures.get(name)
        seconds = known.locked_until - self._now() if known else 0.0
        if seconds > 0:
            raise TooManyRequests("Too many failed logins; come back later.", retry_after_seconds=seconds)

    def failed(self, name: Hashable) -> None:
        """Note a failure of a name."""
        now = self._now()
        known = self._failures.pop(name, None) or _Failures(0.0, now)
        forgotten = (now - known.at) / LONGEST_SECONDS * self._allowed
        known.count = max(0.0, known.count - forgotten) + 1
        known.at = now
        if known.count > self._allowed:
            excess = min(known.count - self._allowed - 1, 16)
            known.locked_until = now + min(LONGEST_SECONDS, self._first_seconds * 2**excess)
        self._failures[name] = known
        if len(self._failures) > REMEMBERED_MAXIMUM:
            self._failures.popitem(last=False)

    def succeeded(self, name: Hashable) -> None:
        """Forget the failures of a name."""
        self._failures.pop(name, None)
