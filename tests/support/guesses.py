"""Guesses at a key or a password, made at the same time."""

import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx

GUESSES = 24
EVALUATED_AT_ONCE = 6
"""Five failures are free, and the one more that locks is evaluated as well."""

FORGIVEN_EVERY_SECONDS = 180.0
FIRST_LOCK_SECONDS = 1.0


def guess_at_once(try_to_log_in: Callable[[int], httpx.Response], guesses: int = GUESSES) -> None:
    """Guess, and check that the guesses were counted one by one: each beyond the free ones waits for a lock to end."""
    started = time.monotonic()
    with ThreadPoolExecutor(min(guesses, 64)) as threads:
        answers = list(threads.map(try_to_log_in, range(guesses)))
    locks_ended = _locks_ended(time.monotonic() - started)
    assert {answer.status_code for answer in answers} == {401, 429}
    assert sum(answer.status_code == 401 for answer in answers) <= EVALUATED_AT_ONCE + locks_ended
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in answers if answer.status_code == 429)


def _locks_ended(seconds: float) -> int:
    """Return how many locks, each twice as long as the one before, can have ended: on a slow machine, more."""
    return int(math.log2(1 + seconds / FIRST_LOCK_SECONDS * 2 ** (seconds / FORGIVEN_EVERY_SECONDS)))
