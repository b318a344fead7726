"""When to come back: later each time, never all together, and never before the server says."""

import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

FIRST_SECONDS = 0.5
LONGEST_SECONDS = 60.0
LEAST_SHARE = 0.25
RETRY_AFTER_LONGEST_SECONDS = 3600.0
"""A server that asks for more than this is not believed."""


def delay_seconds(attempt: int, retry_after: str | None = None) -> float:
    """Return how long to wait after the `attempt`-th failure (from 1).

    Exponential with jitter over the upper three quarters, so that it never shrinks to nothing at the cap. A
    Retry-After (RFC 9110, section 10.2.3: seconds or a date) is the least, and up to a second of jitter is added to it.
    """
    longest = min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** min(attempt - 1, 16))
    jittered = longest * random.uniform(LEAST_SHARE, 1.0)  # noqa: S311 - spreading, no secret
    least = min(_asked_seconds(retry_after), RETRY_AFTER_LONGEST_SECONDS)
    return max(jittered, least + min(jittered, 1.0))


def _asked_seconds(retry_after: str | None) -> float:
    if retry_after is None:
        return 0.0
    if retry_after.isdecimal():
        return float(retry_after)
    try:
        then = parsedate_to_datetime(retry_after)
    except ValueError:
        return 0.0
    aware = then if then.tzinfo else then.replace(tzinfo=UTC)
    return max(0.0, (aware - datetime.now(UTC)).total_seconds())
