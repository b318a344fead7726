"""Repeat duties until the process stops.

Services declare their duties, and the node performs them. A failing pass is logged once, retried with growing pauses,
and reported by the node's heartbeats. It never ends the duty; only cancellation does, at once.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress

import msgspec

from comms_api.duties.health import DutyHealth, DutyRecord
from comms_api.fairness.metering import Metered

EARLY_SHARE = 0.1
"""A pass begins up to this share of its interval early, so that nodes do not work in lockstep."""

FIRST_RETRY_SECONDS = 0.25
ON_DEMAND_RETRY_SECONDS_MAXIMUM = 1.0
"""The longest pause between retries of a duty without an interval."""

LEAST_RETRY_SHARE = 0.5


async def _do_nothing() -> None:
    """Finish a duty that has nothing to finish."""


class Duty(msgspec.Struct, frozen=True):
    """Work to perform whenever `wake` is set, and at the latest `every_seconds` after the last time."""

    name: str
    perform: Callable[[], Awaitable[object]]
    every_seconds: float | None = None
    wake: asyncio.Event = msgspec.field(default_factory=asyncio.Event)
    """It is cleared before each pass. If it is set initially, the first pass begins at once."""

    finish: Callable[[], Awaitable[object]] = _do_nothing
    """It is called once, when the duty ends."""


@asynccontextmanager
async def repeating(duties: Iterable[Duty], health: DutyHealth) -> AsyncIterator[None]:
    """Perform duties while the block runs, and finish them when it ends."""
    tasks = [asyncio.create_task(Metered(repeat(duty, health), duty.name), name=duty.name) for duty in duties]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def repeat(duty: Duty, health: DutyHealth) -> None:
    """Perform a duty until cancelled, then finish it."""
    record = health.begin(duty.name, duty.every_seconds)
    try:
        while not _is_cancelled():
            await _wait(duty, record.failures)
            duty.wake.clear()
            await _perform(duty, record)
    finally:
        try:
            await duty.finish()
        except Exception as error:  # noqa: BLE001 - the process stops anyway
            record.failed(error)


async def _wait(duty: Duty, failures: int) -> None:
    """Return when the next pass is due; after a failure, `wake` does not shorten the pause."""
    if failures:
        await asyncio.sleep(retry_seconds(failures, duty.every_seconds))
        return
    with suppress(TimeoutError):
        async with asyncio.timeout(duty.every_seconds and duty.every_seconds * _share(1 - EARLY_SHARE)):
            await duty.wake.wait()


async def _perform(duty: Duty, record: DutyRecord) -> None:
    try:
        await duty.perform()
    except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - the duty continues
        # A task inside the pass may have been cancelled; the duty ends only if it is cancelled itself.
        if not _is_cancelled():
            record.failed(error)
    else:
        record.succeeded()


def _is_cancelled() -> bool:
    """Return whether this task was cancelled, even if its code has caught that (as `wait_for` of Python 3.11 may)."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def retry_seconds(failures: int, every_seconds: float | None) -> float:
    """Return the pause after a number of failures: it doubles up to the interval of the duty, with jitter."""
    longest = ON_DEMAND_RETRY_SECONDS_MAXIMUM if every_seconds is None else every_seconds
    return min(longest, FIRST_RETRY_SECONDS * 2.0 ** min(failures - 1, 32)) * _share(LEAST_RETRY_SHARE)


def _share(least: float) -> float:
    return random.uniform(least, 1.0)  # noqa: S311 - spreading, no secret
