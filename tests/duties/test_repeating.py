"""A failing pass is logged once per change and retried, and ends nothing; cancellation ends a duty at once."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.waiting import PATIENCE

from comms_api.database.failures import explain_outage
from comms_api.duties.health import DutyHealth, DutyReport
from comms_api.duties.repeating import Duty, repeat, repeating, retry_seconds
from comms_api.errors import Unavailable

pytestmark = pytest.mark.anyio

NEVER_SECONDS = 3_600.0


class Passes:
    """The scripted passes of a duty; `finish` returns when all of them have been made."""

    def __init__(self, outcomes: Iterable[BaseException | None]) -> None:
        self._outcomes: Iterator[BaseException | None] = iter(outcomes)
        self.done = asyncio.Event()

    async def perform(self) -> None:
        try:
            outcome = next(self._outcomes)
        except StopIteration:
            self.done.set()
            return
        if outcome is not None:
            raise outcome


def health() -> DutyHealth:
    return DutyHealth(explain_outage)


async def finish(passes: Passes, *, every_seconds: float | None = 0.001) -> None:
    """Repeat a duty until all of its passes have been made."""
    duty = Duty("walking", passes.perform, every_seconds)
    duty.wake.set()
    async with repeating([duty], health()), asyncio.timeout(PATIENCE):
        await passes.done.wait()


async def test_a_pass_that_fails_is_retried_and_ends_nothing() -> None:
    await finish(Passes([OSError("gone"), ValueError("a bug"), Unavailable("full"), None]))


async def test_a_duty_on_demand_is_retried_without_another_demand() -> None:
    await finish(Passes([OSError("gone")]), every_seconds=None)


async def test_something_cancelled_inside_a_pass_does_not_end_the_duty() -> None:
    await finish(Passes([asyncio.CancelledError()]))


async def test_trouble_is_logged_when_it_begins_changes_and_ends(caplog: pytest.LogCaptureFixture) -> None:
    away, bug, full = (OSError("gone"), OSError("still gone")), (ValueError("a"), ValueError("b")), Unavailable("full")
    with caplog.at_level(logging.INFO):
        await finish(Passes([None, *away, *bug, full, full, None, None, *away, None]))
    assert [(record.levelname, record.getMessage(), bool(record.exc_info)) for record in caplog.records] == [
        ("WARNING", "walking: the database is away (OSError: gone)", False),
        ("ERROR", "walking: failed with ValueError", True),
        ("WARNING", "walking: full", False),
        ("INFO", "walking: all is well", False),
        ("WARNING", "walking: the database is away (OSError: gone)", False),
        ("INFO", "walking: all is well", False),
    ]


async def test_a_duty_is_performed_each_time_that_it_is_woken_and_not_before() -> None:
    passes = asyncio.Queue[str]()
    duty = Duty("waiting", lambda: passes.put("made"), NEVER_SECONDS)
    async with repeating([duty], health()), asyncio.timeout(PATIENCE):
        await asyncio.sleep(0.1)
        assert passes.empty()
        for _ in range(2):
            duty.wake.set()
            await passes.get()


async def hang() -> None:
    await asyncio.Event().wait()


async def ignore_cancellation() -> None:
    try:
        await hang()
    except asyncio.CancelledError:
        return


async def fail_on_cancellation() -> None:
    try:
        await hang()
    except asyncio.CancelledError:
        raise OSError("cannot roll back") from None


@pytest.mark.parametrize("perform", [hang, ignore_cancellation, fail_on_cancellation])
@pytest.mark.parametrize("is_woken", [True, False])
async def test_cancellation_ends_a_duty_at_once_and_it_is_finished(
    perform: Callable[[], Awaitable[None]], *, is_woken: bool
) -> None:
    finished: list[str] = []

    async def note() -> None:
        finished.append("finished")

    duty = Duty("hanging", perform, NEVER_SECONDS, finish=note)
    if is_woken:
        duty.wake.set()
    task = asyncio.create_task(repeat(duty, health()))
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait_for(asyncio.gather(task, return_exceptions=True), PATIENCE)
    assert finished == ["finished"]


async def test_a_duty_that_cannot_be_finished_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise OSError("gone")

    async with repeating([Duty("closing", hang, finish=fail)], health()):
        await asyncio.sleep(0)
    assert [record.getMessage() for record in caplog.records] == ["closing: the database is away (OSError: gone)"]


@given(failures=st.integers(1, 10_000), every_seconds=st.none() | st.floats(0.01, 600))
async def test_pauses_after_failures_are_bounded_and_never_zero(failures: int, every_seconds: float | None) -> None:
    longest = every_seconds or 1.0
    least = min(longest, 0.25) / 2
    assert least <= retry_seconds(failures, every_seconds) <= min(longest, 0.25 * 2 ** min(failures - 1, 32))


async def test_a_duty_on_demand_is_silent_only_while_it_fails() -> None:
    record = health().begin("waiting", None)
    assert record.report() == DutyReport()
    record.failed(OSError("gone"))
    await asyncio.sleep(0.11)
    assert record.report().silent_seconds > 0
    record.succeeded()
    assert record.report() == DutyReport()


async def test_every_duty_is_reported_from_its_start() -> None:
    duties, found = [Duty(name, hang, NEVER_SECONDS) for name in ("one", "two")], health()
    async with repeating(duties, found):
        await asyncio.sleep(0)
        assert set(found.report()) == {"one", "two"}
