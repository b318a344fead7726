"""Compute the delay before a retry: it grows, has random jitter, and is at least the server's Retry-After."""

import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

FIRST_SECONDS = 0.5
LONGEST_SECONDS = 60.0
LEAST_SHARE = 0.25
FAILOVER_SECONDS = 3.0
"""The longest delay before another server is asked. When a server dies, it spreads the agents whose polls it held."""
RETRY_AFTER_SECONDS_MAXIMUM = 3600.0
"""The longest Retry-After that is respected; a longer one counts as this."""


def delay_seconds(attempt: int, retry_after: str | None = None) -> float:
    """Return how long to wait after the `attempt`-th failure, counted from 1.

    The delay grows exponentially. Jitter over its upper three quarters never shrinks it to nothing. A Retry-After
    (RFC 9110, section 10.2.3: seconds or a date) is a lower bound, to which up to a second of jitter is added.
    """
    longest = min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** min(attempt - 1, 16))
    jittered = longest * random.uniform(LEAST_SHARE, 1.0)  # noqa: S311 - spreading, no secret
    least = min(_retry_after_seconds(retry_after), RETRY_AFTER_SECONDS_MAXIMUM)
    return max(jittered, least + min(jittered, 1.0))


def failover_seconds(*, is_lost: bool) -> float:
    """Return how long to wait before another server is asked.

    All agents of a server lose it at the same time (`is_lost`), but are refused by it one by one.
    """
    longest = FAILOVER_SECONDS if is_lost else FIRST_SECONDS
    return longest * random.uniform(LEAST_SHARE, 1.0)  # noqa: S311 - spreading, no secret


def _retry_after_seconds(retry_after: str | None) -> float:
    if retry_after is None:
        return 0.0
    if retry_after.isdecimal():
        return float(retry_after)
    try:
        date = parsedate_to_datetime(retry_after)
    except (ValueError, OverflowError):  # a year of many digits
        return 0.0
    aware = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max(0.0, (aware - datetime.now(UTC)).total_seconds())
