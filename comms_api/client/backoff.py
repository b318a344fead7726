"""When to come back: later each time, never all together, and never before the server says."""

import random

FIRST_SECONDS = 0.5
LONGEST_SECONDS = 60.0
LEAST_SHARE = 0.25


def delay_seconds(attempt: int, retry_after: str | None = None) -> float:
    """Return how long to wait after the `attempt`-th failure (from 1).

    Exponential with jitter over the upper three quarters, so that it never shrinks to nothing at the cap; a
    Retry-After in seconds (RFC 9110, section 10.2.3) is the least, and jitter is added to it.
    """
    longest = min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** min(attempt - 1, 16))
    jittered = longest * random.uniform(LEAST_SHARE, 1.0)  # noqa: S311 - spreading, no secret
    if retry_after is not None and retry_after.isdecimal():
        return min(float(retry_after), LONGEST_SECONDS) + min(jittered, 1.0)
    return jittered
