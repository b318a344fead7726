"""Concurrent operations on the same orders do not deadlock and do not hide each other's results."""

import asyncio
import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import text
from support.orders import claim, submit

from comms_api.commands import control, queries
from comms_api.commands.rollout import Rollout
from comms_api.commands.service import Rollouts
from comms_api.database.connection import Engine
from comms_api.database.listener import Notifier
from comms_api.database.uuid7 import DatabaseClock
from comms_api.orders import transitions
from comms_api.orders.archive import maintenance
from comms_api.orders.archive.chunks import archive_orders
from comms_api.orders.archive.maintenance import Maintenance
from comms_api.orders.counts import count_orders
from comms_api.orders.leases import release_orders
from comms_api.orders.model import Ending, Report
from comms_api.orders.reports import Reports
from comms_api.orders.service import EXPORT_PAGE, StoredOrders
from comms_api.protocol import OrderResult, Result
from comms_api.settings import Settings

pytestmark = pytest.mark.anyio


async def test_reports_and_a_cancellation_of_the_same_orders_do_not_deadlock(engine: Engine) -> None:
    for _ in range(4):
        request_id, ids = await submit(engine, 600)
        found = [
            Ending(UUID(claimed.order.order_id), claimed.agent_id, "success", 0, "", None)
            for claimed in await claim(engine, ids)
        ]

        async def report(endings_: list[Ending]) -> int:
            async with engine.begin() as connection:
                return len(await transitions.finish_orders(connection, endings_))

        async def cancel(request_id: UUID = request_id) -> int:
            async with engine.begin() as connection:
                return (await transitions.cancel_command(connection, request_id, "tester"))[0]

        batches = [random.sample(found, 500) for _ in range(3)]
        ended = await asyncio.gather(cancel(), *map(report, batches))
        assert sum(ended) == 600


async def test_another_agents_report_does_not_hide_the_owners_report_or_reveal_the_order(engine: Engine) -> None:
    _, [owner, other] = await submit(engine, 2)
    [order_id] = [UUID(claimed.order.order_id) for claimed in await claim(engine, [owner])]
    result = OrderResult(str(order_id), Result(0, "done"))
    reports = Reports(engine, 60)
    outcomes = await reports._record([Report(other, 0, result), Report(owner, 0, result)])  # noqa: SLF001 - one group
    assert [(outcome.result, outcome.status) for outcome in outcomes] == [
        ("no such order of this agent", 404),
        ("updated", 200),
    ]


async def test_a_claim_that_is_released_while_its_command_is_paused_is_held(engine: Engine) -> None:
    request_id, ids = await submit(engine, 1)
    claimed = await claim(engine, ids)
    async with engine.begin() as connection:
        assert await control.halt(connection, request_id, control.Halt("paused", "", 3600)) == 0
        await release_orders(connection, claimed)
    assert await claim(engine, ids) == []
    async with engine.begin() as connection:
        assert await control.resume(connection, request_id, "") == ("released", 1)
    assert len(await claim(engine, ids)) == 1


async def test_failures_hold_and_keep_orders_that_are_released_and_not_sent(engine: Engine) -> None:
    request_id, ids = await submit(engine, 10, seconds=60, rollout=Rollout(failure_ratio=0.1, failures_after=3))
    rollouts = Rollouts(engine, Notifier(engine, {}), Settings())
    assert await rollouts.advance() == 10
    claimed = await claim(engine, ids[:3])
    reports = Reports(engine, 60)
    for one in claimed:
        await reports._record([Report(one.agent_id, 0, OrderResult(one.order.order_id, Result(1)))])  # noqa: SLF001
    assert await rollouts.advance() == 0
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE orders SET expires_at = expires_at - interval '61 s'"))  # time passes
    assert await Maintenance(engine, Settings()).expire() == 0
    async with engine.connect() as connection:
        command = await queries.get_command(connection, request_id)
        counts = await count_orders(connection, request_id)
    assert command is not None
    assert (command.phase, counts.held, counts.failure) == ("stopped", 7, 3)
    assert await claim(engine, ids) == []


async def test_a_day_that_becomes_old_while_another_is_packed_is_not_dropped(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[object] = []

    async def note(_engine: Engine, _table: str, oldest: object) -> list[str]:
        kept.append(oldest)
        return []

    monkeypatch.setattr(maintenance, "drop_partitions_before", note)
    async with engine.begin() as connection:
        await connection.execute(text("DELETE FROM orders"))
    await Maintenance(engine, Settings(orders_archive_days=2)).archive()
    assert kept == [datetime.now(UTC).date() - timedelta(days=2)]


async def test_an_export_that_meets_the_archive_has_every_order_once(engine: Engine) -> None:
    request_id, _ = await submit(engine, 3 * EXPORT_PAGE)
    async with engine.begin() as connection:
        await transitions.cancel_command(connection, request_id, "tester")

    async def pack(orders: int) -> None:
        async with engine.begin() as connection:
            await archive_orders(connection, datetime.now(UTC).date(), orders)

    stored = StoredOrders(engine, DatabaseClock(), Notifier(engine, {}))
    await pack(100)
    seen: Counter[UUID] = Counter()
    async for order in stored.stream(request_id, "olga"):
        seen[order.order_id] += 1
        if len(seen) % 150 == 0:
            await pack(200)
    assert len(seen) == 3 * EXPORT_PAGE
    assert set(seen.values()) == {1}
