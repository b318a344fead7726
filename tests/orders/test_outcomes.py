"""Orders have outcomes; filters, counts, exports and the archive agree on them."""

import json
from datetime import UTC, datetime
from typing import get_args
from uuid import UUID

import pytest
from sqlalchemy import text
from support.duties import performing
from support.orders import claim, submit

from comms_api.commands.service import Commands
from comms_api.database.connection import Engine
from comms_api.database.listener import Notifier
from comms_api.database.pages import PageRequest
from comms_api.database.partitions import ensure_partition
from comms_api.database.uuid7 import DatabaseClock
from comms_api.fairness.slices import exhaust
from comms_api.orders.archive.chunks import archive_orders
from comms_api.orders.export import export_orders
from comms_api.orders.model import OrderFilter, OrderOutcome, OutcomeFilter
from comms_api.orders.reports import Reports, read_reports
from comms_api.orders.service import StoredOrders
from comms_api.orders.transitions import cancel_order, expire_early, expire_orders
from comms_api.protocol import OrderStatus
from comms_api.settings import Settings

pytestmark = pytest.mark.anyio

STATUSES: dict[OrderOutcome, OrderStatus] = {
    "success": "success",
    "failed": "failure",
    "rejected": "failure",
    "expired_before_delivery": "failure",
    "expired_after_delivery": "failure",
    "cancelled": "cancelled",
}
RESULTS = {
    "success": {"code": 0},
    "failed": {"code": 1, "message": "no", "data": {"rejected": False}},
    "rejected": {"code": 1, "message": "no", "data": {"rejected": "this agent has no action 'a'"}},
}


@pytest.fixture
def orders(engine: Engine) -> StoredOrders:
    return StoredOrders(engine, DatabaseClock(), Notifier(engine, {}))


@pytest.fixture
def commands(engine: Engine) -> Commands:
    return Commands(engine, DatabaseClock(), Notifier(engine, {}), Settings())


async def end_orders(engine: Engine) -> tuple[UUID, dict[OrderOutcome, UUID]]:
    """Submit a command to six agents and end each order in its own way; return the order of each outcome."""
    request_id, agents = await submit(engine, len(STATUSES))
    late, *punctual = agents
    claimed = {claim.agent_id: UUID(claim.order.order_id) for claim in await claim(engine, punctual)}
    ended: dict[OrderOutcome, UUID] = {}
    reports = Reports(engine, 60)
    async with performing(reports):
        for agent_id, outcome in zip(punctual, RESULTS, strict=False):
            ended[outcome] = claimed[agent_id]  # type: ignore[index] # the names of three outcomes
            body = {"results": [{"order_id": str(claimed[agent_id]), "result": RESULTS[outcome]}]}
            read, _ = exhaust(read_reports(json.dumps(body).encode()))
            await reports.report(agent_id, list(read.values()))
    ended["cancelled"], ended["expired_after_delivery"] = claimed[punctual[3]], claimed[punctual[4]]
    async with engine.begin() as connection:
        await cancel_order(connection, ended["cancelled"], "olga")
        [ended["expired_before_delivery"]] = await connection.scalars(
            text("SELECT order_id FROM orders WHERE agent_id = :id"), {"id": late}
        )
        await expire_early(connection, [ended["expired_after_delivery"], ended["expired_before_delivery"]])
    async with engine.begin() as connection:
        await expire_orders(connection, 10)
    return request_id, ended


async def test_each_outcome_is_shown_filtered_and_counted(
    engine: Engine, orders: StoredOrders, commands: Commands
) -> None:
    request_id, ended = await end_orders(engine)
    assert set(ended) == set(get_args(OrderOutcome)) == set(STATUSES)

    async def matching(outcome: OutcomeFilter) -> set[UUID]:
        page = await orders.list(OrderFilter(request_id=request_id, outcome=outcome), PageRequest(), "olga")
        return {order.order_id for order in page.items}

    for outcome, order_id in ended.items():
        order = await orders.get(order_id, "olga")
        assert (order.outcome, order.status) == (outcome, STATUSES[outcome])
        assert await matching(outcome) == {order_id}
    assert await matching("expired") == {ended["expired_before_delivery"], ended["expired_after_delivery"]}
    progress = await commands.get(request_id)
    assert all(getattr(progress.orders, outcome) == 1 for outcome in ended)
    assert progress.orders.failure == 4
    assert {(failure.order_id, failure.outcome) for failure in progress.failures} == {
        (order_id, outcome) for outcome, order_id in ended.items() if STATUSES[outcome] == "failure"
    }


async def test_an_open_order_has_no_outcome(engine: Engine, orders: StoredOrders) -> None:
    request_id, _ = await submit(engine, 1)
    [order] = (await orders.list(OrderFilter(request_id=request_id), PageRequest(), "olga")).items
    assert order.outcome is None


async def test_the_archive_and_exports_keep_outcomes(engine: Engine, orders: StoredOrders, commands: Commands) -> None:
    request_id, ended = await end_orders(engine)
    counts = (await commands.get(request_id)).orders
    today = datetime.now(UTC).date()
    await ensure_partition(engine, "archived_orders", today)
    async with engine.begin() as connection:
        await archive_orders(connection, today, 1_000)
    assert (await commands.get(request_id)).orders == counts
    assert (await orders.get(ended["rejected"], "olga")).outcome == "rejected"
    lines = b"".join([piece async for piece in export_orders(orders.stream(request_id, "olga"), "csv")])
    rows = [line.split(",") for line in lines.decode().splitlines()]
    assert {row[3]: row[0] for row in rows[1:]} == {outcome: str(order_id) for outcome, order_id in ended.items()}
    assert rows[0][3] == "outcome"
