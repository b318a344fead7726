"""Coalescing: all waiting callers share one statement, and each gets only its own failures."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from support.duties import performing
from support.events import batch_of, incompressible
from support.server import new_id
from support.waiting import PATIENCE

from comms_api.database.coalescing import IS_CALLER_GONE, SETTLED_AT_ONCE, UNLIMITED, Coalescer
from comms_api.database.connection import Engine
from comms_api.database.failures import MissingPartition, Refusal, explain_outage
from comms_api.database.pages import PageRequest
from comms_api.database.partitions import partition_name
from comms_api.database.uuid7 import DatabaseClock, uuid7_at
from comms_api.duties.health import DutyHealth
from comms_api.duties.repeating import repeating
from comms_api.errors import ClientLeft, Unavailable
from comms_api.events.postgresql_sink import PostgresqlSink
from comms_api.events.reading.model import EventFilter
from comms_api.events.reading.service import EventReader

pytestmark = pytest.mark.anyio


class Table:
    """Stores numbers; refuses negative ones, as PostgreSQL refuses invalid JSON."""

    def __init__(self) -> None:
        self.statements: list[list[int]] = []
        self.is_down = False

    async def store(self, items: Sequence[int]) -> list[str]:
        self.statements.append(list(items))
        await asyncio.sleep(0.01)
        if self.is_down:
            raise ConnectionRefusedError
        if min(items) < 0:
            raise Refusal("negative")
        return [f"stored {item}" for item in items]

    async def refuse(self, item: int, reason: str) -> str:
        return f"refused {item}: {reason}"


@asynccontextmanager
async def writing(coalescer: Coalescer[Any, Any], *sizes: int) -> AsyncIterator[None]:
    """Run a writer for each maximum size, or one for all sizes."""
    duties = [coalescer.duty(f"writer {number}", size) for number, size in enumerate(sizes or (UNLIMITED,))]
    async with repeating(duties, DutyHealth(explain_outage)):
        yield


async def run(table: Table, act: Callable[[Coalescer[int, str]], asyncio.Future[object]]) -> object:
    coalescer = Coalescer[int, str](table.store, table.refuse)
    async with writing(coalescer):
        return await act(coalescer)


async def test_all_waiting_callers_share_one_statement_and_get_their_own_outcomes() -> None:
    table = Table()
    outcomes = await run(table, lambda c: asyncio.gather(*(c.submit(n, [n, n + 100]) for n in range(50))))
    assert outcomes == [[f"stored {n}", f"stored {n + 100}"] for n in range(50)]
    assert len(table.statements) <= 2


async def test_a_poisoned_item_is_refused_alone() -> None:
    table = Table()
    outcomes = await run(
        table, lambda c: asyncio.gather(*(c.submit(n, [n, -n - 1 if n == 7 else n]) for n in range(20)))
    )
    assert outcomes == [
        ["stored 7", "refused -8: negative"] if n == 7 else [f"stored {n}", f"stored {n}"] for n in range(20)
    ]
    assert len(table.statements) < 20


async def test_an_outage_reaches_every_caller_and_the_next_is_served() -> None:
    table = Table()
    coalescer = Coalescer[int, str](table.store, table.refuse)
    async with writing(coalescer):
        table.is_down = True
        failed = await asyncio.gather(*(coalescer.submit(n, [n]) for n in range(5)), return_exceptions=True)
        assert {type(error) for error in failed} == {ConnectionRefusedError}
        table.is_down = False
        assert await coalescer.submit("a", [1]) == ["stored 1"]


async def test_a_bug_triggered_by_one_caller_does_not_fail_the_others() -> None:
    table = Table()

    async def store(items: Sequence[int]) -> list[str]:
        if 7 in items:
            raise KeyError(7)
        return await table.store(items)

    coalescer = Coalescer[int, str](store, table.refuse)
    async with writing(coalescer):
        outcomes = await asyncio.gather(*(coalescer.submit(n, [n]) for n in range(10)), return_exceptions=True)
        assert [type(outcomes[7]), outcomes[:7], outcomes[8:]] == [
            KeyError, [[f"stored {n}"] for n in range(7)], [["stored 8"], ["stored 9"]]
        ]  # fmt: skip


async def test_a_caller_that_leaves_does_not_affect_the_others() -> None:
    table = Table()
    coalescer = Coalescer[int, str](table.store, table.refuse)
    async with writing(coalescer):
        gone, stays = asyncio.create_task(coalescer.submit("a", [1])), asyncio.create_task(coalescer.submit("b", [2]))
        await asyncio.sleep(0)
        gone.cancel()
        assert await stays == ["stored 2"]


async def test_a_submission_whose_caller_left_before_its_turn_is_dropped() -> None:
    table, left = Table(), {1, 2, 3}
    coalescer = Coalescer[int, str](table.store, table.refuse)

    async def submit(number: int) -> Sequence[str]:
        IS_CALLER_GONE.set(lambda: number in left)
        return await coalescer.submit("one" if number < 3 else number, [number])

    waiting = [asyncio.create_task(submit(number)) for number in range(6)]
    await asyncio.sleep(0)
    async with writing(coalescer):
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [list, ClientLeft, ClientLeft, ClientLeft, list, list]
        assert {number for statement in table.statements for number in statement} == {0, 4, 5}
        assert await coalescer.submit("one", [6]) == ["stored 6"]


async def test_a_submission_whose_turn_comes_too_late_is_refused_and_not_stored() -> None:
    table = Table()
    coalescer = Coalescer[int, str](table.store, table.refuse, wait_seconds_maximum=0)
    late = asyncio.create_task(coalescer.submit("agent", [1]))
    await asyncio.sleep(0)
    async with writing(coalescer), asyncio.timeout(PATIENCE):
        with pytest.raises(Unavailable, match="nothing was stored"):
            await late
    assert table.statements == []


@pytest.mark.parametrize("is_down", [False, True])
async def test_the_callers_of_a_large_group_continue_over_several_rounds(*, is_down: bool) -> None:
    table, ended = Table(), list[int]()
    table.is_down = is_down
    coalescer = Coalescer[int, str](table.store, table.refuse)

    async def call(number: int) -> None:
        with suppress(ConnectionRefusedError):
            await coalescer.submit(number, [number])
        ended.append(number)

    calls = [asyncio.create_task(call(number)) for number in range(100)]
    await asyncio.sleep(0)
    most = before = 0
    async with writing(coalescer), asyncio.timeout(PATIENCE):
        while len(ended) < len(calls):
            await asyncio.sleep(0)
            most, before = max(most, len(ended) - before), len(ended)
    assert len(table.statements) == 1
    assert most <= SETTLED_AT_ONCE


async def test_a_busy_owner_delays_the_others_by_one_of_its_requests() -> None:
    table = Table()
    coalescer = Coalescer[int, str](table.store, table.refuse)
    shouted = [asyncio.create_task(coalescer.submit("loud", range(10_000))) for _ in range(9)]
    quiet = asyncio.create_task(coalescer.submit("quiet", [1]))
    await asyncio.sleep(0)
    async with writing(coalescer):
        assert await quiet == ["stored 1"]
        assert [task.done() for task in shouted] == [True, True, *[False] * 7]
        await asyncio.gather(*shouted)


async def test_a_reserved_writer_stores_small_submissions_while_large_ones_occupy_the_other_writers() -> None:
    table, may_end = Table(), asyncio.Event()

    async def store(items: Sequence[int]) -> list[str]:
        if len(items) > 200:
            await may_end.wait()
        return await table.store(items)

    coalescer = Coalescer[int, str](store, table.refuse, 1_000)
    async with writing(coalescer, UNLIMITED, 200):
        large = [asyncio.create_task(coalescer.submit(f"large {number}", range(900))) for number in range(9)]
        small = [asyncio.create_task(coalescer.submit(f"small {number}", [number])) for number in range(20)]
        assert await asyncio.wait_for(asyncio.gather(*small), PATIENCE) == [
            [f"stored {number}"] for number in range(20)
        ]
        assert not any(task.done() for task in large)
        may_end.set()
        await asyncio.gather(*large)


async def test_a_group_ends_with_the_submission_that_reaches_the_size_of_a_group() -> None:
    table = Table()
    coalescer = Coalescer[int, str](table.store, table.refuse, 1_000)
    waiting = [asyncio.create_task(coalescer.submit(number, [number], size=400)) for number in range(7)]
    await asyncio.sleep(0)
    async with writing(coalescer):
        await asyncio.gather(*waiting)
        assert table.statements == [[0, 1, 2], [3, 4, 5], [6]]


async def test_a_busy_owner_occupies_one_writer_and_leaves_the_others_free() -> None:
    begun, may_end = [], asyncio.Event()

    async def store(items: Sequence[int]) -> Sequence[int]:
        begun.append(items[0])
        if items[0] != 7:
            await may_end.wait()
        return items

    async def refuse(item: int, _reason: str) -> int:
        return -item

    coalescer = Coalescer[int, int](store, refuse)
    async with writing(coalescer, *[UNLIMITED] * 3):
        shouted = [asyncio.create_task(coalescer.submit("loud", [number] * 20_000)) for number in range(3)]
        for _ in range(10):
            await asyncio.sleep(0)
        assert await asyncio.wait_for(coalescer.submit("quiet", [7]), PATIENCE) == [7]
        assert begun == [0, 7]
        may_end.set()
        assert [outcomes[0] for outcomes in await asyncio.gather(*shouted)] == [0, 1, 2]


async def test_an_empty_submission_has_no_outcomes() -> None:
    table = Table()
    assert await asyncio.wait_for(run(table, lambda c: asyncio.gather(c.submit("a", []), c.submit("b", [1]))), 5) == [
        [],
        ["stored 1"],
    ]


async def test_writers_share_the_waiting_submissions() -> None:
    table = Table()
    coalescer = Coalescer[int, str](table.store, table.refuse)
    async with writing(coalescer, *[UNLIMITED] * 2):

        async def act(owner: int) -> None:
            for _ in range(10):
                await coalescer.submit(owner, [owner])

        await asyncio.gather(*(act(owner) for owner in range(50)))
        # Otherwise one writer stores 48 at a time and the other only what arrives in the meantime.
        assert max(map(len, table.statements[2:-2])) <= 26


async def test_a_missing_partition_is_created_and_events_of_expired_days_are_dropped(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    clock = DatabaseClock()
    sink = PostgresqlSink(engine)
    async with performing(sink):
        today, agent_id = partition_name("event_batches", datetime.fromtimestamp(clock.now(), UTC).date()), new_id()
        async with engine.begin() as connection:
            await connection.execute(text(f"DROP TABLE {today}"))
        large = incompressible(10_000)
        await asyncio.gather(*(sink.append(batch_of(clock.uuid7(), agent_id, [large])) for _ in range(9)))
        await sink.append(batch_of(uuid7_at(clock.now() - 90 * 86_400), agent_id, [b'{"old":1}', b'{"old":2}']))
        with pytest.raises(MissingPartition):
            await sink.append(batch_of(uuid7_at(clock.now() + 90 * 86_400), agent_id, [b'{"from":"later"}']))
    assert await lines_of(engine, agent_id) == [large] * 9
    assert f"dropped 2 events of agent {agent_id}: the events of days before" in caplog.text


async def test_a_batch_that_is_stored_again_changes_nothing(engine: Engine) -> None:
    clock, agent_id = DatabaseClock(), new_id()
    first, second = (batch_of(clock.uuid7(), agent_id, [b'{"n":%d}' % number]) for number in range(2))
    sink = PostgresqlSink(engine)
    async with performing(sink):
        await sink.append(first)
        await asyncio.gather(*(sink.append(batch) for batch in (first, second, first, second)))
    assert await lines_of(engine, agent_id) == [b'{"n":0}', b'{"n":1}']


async def lines_of(engine: Engine, agent_id: UUID) -> list[bytes]:
    page = await EventReader(engine, DatabaseClock(), PATIENCE).list("olga", EventFilter(agent_id), PageRequest())
    return [bytes(event.event) for event in page.items]
