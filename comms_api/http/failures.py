"""Slow down those who fail to log in: by who they say they are and where they come from, in bounded memory.

A limit by address alone would let one client lock out all others behind the same proxy, so there is none.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import TypeAlias

import msgspec

from comms_api.errors import TooManyRequests, Unauthenticated
from comms_api.http1.addresses import network_of

REMEMBERED_MAXIMUM = 50_000
LONGEST_SECONDS = 900.0

Try: TypeAlias = tuple[str, str | None]
"""Who tries to log in, and from where: an IPv4 address or the /64 of an IPv6 address, which one client may own."""


class _Failures(msgspec.Struct):
    count: float
    at: float
    locked_until: float = 0.0


class FailureLimit:
    """Allows some failures, then locks for a time that doubles with each more; failures are forgotten over time.

    The memory is this process's own and bounded: the oldest failures go first.
    """

    def __init__(self, allowed: int, first_seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        """Allow this many failures; the first one more locks for `first_seconds`."""
        self._allowed = allowed
        self._first_seconds = first_seconds
        self._now = now
        self._failures: OrderedDict[Try, _Failures] = OrderedDict()

    @contextmanager
    def charged(self, who: str, address: str | None) -> Iterator[None]:
        """Count a failure before the block evaluates a try, so that tries made at the same time count one by one.

        The block's success clears the failures. A block that cannot tell (an outage, a full queue) gives its own back.
        One that ends in `Unauthenticated`, or whose client has left, keeps it. Raises `TooManyRequests` while locked.
        """
        self.charge(who, address)
        try:
            yield
        except Unauthenticated:
            raise
        except Exception:
            self.refund(who, address)
            raise
        self.clear(who, address)

    def charge(self, who: str, address: str | None) -> None:
        """Count a failure; raises `TooManyRequests`, with the seconds to wait, while the two are locked."""
        now, key = self._now(), _key(who, address)
        failures = self._failures[key] = self._failures.pop(key, _Failures(0.0, now))
        if failures.locked_until > now:
            detail = "Too many failed logins; come back later."
            raise TooManyRequests(detail, retry_after_seconds=failures.locked_until - now)
        forgotten = (now - failures.at) / LONGEST_SECONDS * self._allowed
        failures.count = max(0.0, failures.count - forgotten) + 1
        failures.at = now
        if failures.count > self._allowed:
            excess = min(failures.count - self._allowed - 1, 16)
            failures.locked_until = now + min(LONGEST_SECONDS, self._first_seconds * 2**excess)
        if len(self._failures) > REMEMBERED_MAXIMUM:
            self._failures.popitem(last=False)

    def refund(self, who: str, address: str | None) -> None:
        """Give back one failure, of a try that was not evaluated."""
        failures = self._failures.get(_key(who, address))
        if failures is not None:
            failures.count -= 1
            if failures.count <= self._allowed:
                failures.locked_until = 0.0

    def clear(self, who: str, address: str | None) -> None:
        """Forget the failures of `who` at an address."""
        self._failures.pop(_key(who, address), None)

    def clear_all(self, names: Collection[str]) -> None:
        """Forget the failures of these at every address."""
        for each in [each for each in self._failures if each[0] in names]:
            del self._failures[each]


def _key(who: str, address: str | None) -> Try:
    return who, None if address is None else network_of(address)
