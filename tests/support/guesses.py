"""Guesses at a key or a password, made at the same time."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx

GUESSES = 24
EVALUATED_AT_ONCE = 6
"""Five failures are free, and the one more that locks is evaluated as well."""


def guess_at_once(try_to_log_in: Callable[[int], httpx.Response]) -> None:
    """Guess, and check that the guesses were counted one by one: each beyond the free ones waits for a lock to end."""
    started = time.monotonic()
    with ThreadPoolExecutor(GUESSES) as threads:
        answers = list(threads.map(try_to_log_in, range(GUESSES)))
    locks_ended = int(time.monotonic() - started)  # the shortest lock is of one second
    assert {answer.status_code for answer in answers} <= {401, 429}
    assert sum(answer.status_code == 401 for answer in answers) <= EVALUATED_AT_ONCE + locks_ended
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in answers if answer.status_code == 429)
