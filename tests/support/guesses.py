"""Simultaneous guesses at a key or a password."""

import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx

GUESSES = 24
EVALUATED_AT_ONCE = 6
"""Five failures are free, and the server also evaluates the sixth, which locks."""

FORGIVEN_EVERY_SECONDS = 180.0
FIRST_LOCK_SECONDS = 1.0


def guess_at_once(try_to_log_in: Callable[[int], httpx.Response], guesses: int = GUESSES) -> None:
    """Guess, and check that guesses count one by one: each guess after the free ones waits until a lock ends."""
    started = time.monotonic()
    with ThreadPoolExecutor(min(guesses, 64)) as threads:
        answers = list(threads.map(try_to_log_in, range(guesses)))
    locks_ended = _locks_ended(time.monotonic() - started)
    assert {answer.status_code for answer in answers} == {401, 429}
    assert sum(answer.status_code == 401 for answer in answers) <= EVALUATED_AT_ONCE + locks_ended
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in answers if answer.status_code == 429)


def _locks_ended(seconds: float) -> int:
    """Return how many locks may have ended in this time; each lock lasts twice as long as the previous one."""
    return int(math.log2(1 + seconds / FIRST_LOCK_SECONDS * 2 ** (seconds / FORGIVEN_EVERY_SECONDS)))
