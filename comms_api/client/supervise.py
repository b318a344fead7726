"""Keep the agent's tasks running: each fails alone, is logged once, and is retried."""

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from threading import Thread
from typing import Any, TypeVar

import psutil

from comms_api.client.backoff import delay_seconds
from comms_api.errors import CommsError, Unauthenticated

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")

_EXPECTED = (OSError, sqlite3.Error, psutil.Error, CommsError)
"""Errors whose sentence says enough. Any other is a bug, and is logged with its traceback."""


class Health:
    """Logs a failing activity once, until it succeeds or its error changes."""

    def __init__(self, activity: str) -> None:
        """Take the activity's name in the log, such as "sending events"."""
        self._activity = activity
        self._error: str | None = None

    def failed(self, error: Exception) -> None:
        """Log an error, unless the previous attempt failed in the same way."""
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
        except Exception as error:  # noqa: BLE001 - whatever it is, the agent goes on
            health.failed(error)
            failures += 1
            await asyncio.sleep(delay_seconds(failures))
        else:
            health.succeeded()
            return


class Background:
    """Runs one blocking call at a time, in a daemon thread: a call that hangs delays no one, nor the agent's end."""

    def __init__(self) -> None:
        """Start no thread yet."""
        self._last: Future[Any] | None = None

    async def run(self, function: Callable[[], Answer], seconds: float) -> Answer:
        """Return what a function returns; raises `TimeoutError` after `seconds`, and at once while a call hangs."""
        if self._last is not None and not self._last.done():
            raise TimeoutError("the previous attempt has not ended yet")
        future: Future[Answer] = Future()
        future.set_running_or_notify_cancel()
        self._last = future
        Thread(target=_settle, args=(future, function), daemon=True).start()
        try:
            async with asyncio.timeout(seconds) as limit:
                return await asyncio.wrap_future(future)
        except TimeoutError:
            if limit.expired():
                raise TimeoutError(f"no result within {seconds:g} seconds") from None
            raise


def _settle(future: Future[Answer], function: Callable[[], Answer]) -> None:
    try:
        future.set_result(function())
    except Exception as error:  # noqa: BLE001 - the caller receives it
        future.set_exception(error)
