"""Keep the agent's tasks running: each fails on its own, is logged once, and is retried."""

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable

import psutil

from comms_api.client.backoff import delay_seconds
from comms_api.errors import CommsError, Unauthenticated

logger = logging.getLogger(__name__)

_EXPECTED = (OSError, sqlite3.Error, psutil.Error, CommsError)
"""Errors whose message says enough. Any other error is a bug and is logged with its traceback."""


class Health:
    """Logs a failing activity once, until it succeeds or its error changes.

    `activity` is its name in the log, such as "sending events".
    """

    def __init__(self, activity: str) -> None:
        self._activity = activity
        self._error: str | None = None

    def failed(self, error: Exception) -> None:
        """Log an error, unless the previous attempt failed with the same one."""
        text = f"{type(error).__name__}: {error}"
        if text != self._error:
            self._error = text
            is_bug = not isinstance(error, _EXPECTED)
            logger.warning("%s failed and will be retried: %s", self._activity, text, exc_info=is_bug)

    def succeeded(self) -> None:
        """Log the end of a failure."""
        if self._error is not None:
            self._error = None
            logger.info("%s succeeds again", self._activity)


async def keep_going(activity: str, step: Callable[[], Awaitable[None]]) -> None:
    """Repeat a step until cancelled; raises as `until_done` does."""
    health = Health(activity)
    while True:
        await until_done(health, step)


async def until_done(health: Health, step: Callable[[], Awaitable[None]]) -> None:
    """Try a step until it succeeds, with growing delays.

    Raises `Unauthenticated` at once, since another attempt would fail in the same way.
    """
    failures = 0
    while True:
        try:
            await step()
        except Unauthenticated:
            raise
        except Exception as error:  # noqa: BLE001 - no error of a task may end the agent
            health.failed(error)
            failures += 1
            await asyncio.sleep(delay_seconds(failures))
        else:
            health.succeeded()
            return


async def wait_for_event(event: asyncio.Event, seconds: float) -> bool:
    """Wait until an event is set, for at most `seconds`; clear it and return whether it was set."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    event.clear()
    return True
