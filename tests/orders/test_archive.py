"""The archive keeps finished orders complete, packs them in bounded steps, and does not slow down open orders."""

from datetime import UTC, date, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import text
from support.databases import rolled_back

from comms_api.commands.service import Commands
from comms_api.database.connection import Connection, Engine
from comms_api.database.listener import Notifier
from comms_api.database.pages import PageRequest
from comms_api.database.partitions import ensure_partition, list_days
from comms_api.database.uuid7 import DatabaseClock, uuid7_at
from comms_api.orders import leases, transitions
from comms_api.orders.archive import maintenance
from comms_api.orders.archive.maintenance import Maintenance
from comms_api.orders.model import OrderFilter
from comms_api.orders.service import StoredOrders
from comms_api.settings import Settings

pytestmark = pytest.mark.anyio

COMMAND = """
    INSERT INTO commands (request_id, source, user_name, target_type, target_ids, action_name, action_version,
        action_args, timeout_seconds, expires_at, created_at)
    VALUES (:id, 'Engine', 'tester', 'all', '{}', 'a', '', '{}', 60, :now, :now)"""
FINISHED = """
    INSERT INTO finished_orders (order_id, request_id, agent_id, agent_groups, attempt, created_at, expires_at,
        finished_at, status, result_code, result_message, result_data)
    SELECT CAST(lpad(to_hex(CAST(:milliseconds AS bigint) + n / 10), 12, '0')
            || substr(CAST(uuid7() AS text), 15) AS uuid),
        :id, uuid7(), '{a,b}', 1, :now, :now, :now, CASE n % 4 WHEN 0 THEN 'failure' ELSE 'success' END, n % 4,
        'message ' || n, '{"n": true}'
    FROM generate_series(1, :orders) AS n"""


async def finish(connection: Connection, day: date, orders: int) -> UUID:
    """Write the finished orders of one command of a past day; return its id."""
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    request_id = uuid7_at(noon.timestamp())
    values = {"id": request_id, "now": noon, "orders": orders, "milliseconds": int(noon.timestamp() * 1000)}
    await connection.execute(text(COMMAND), {"id": request_id, "now": noon})
    await connection.execute(text(FINISHED), values)
    return request_id


@pytest.fixture
async def commands(engine: Engine) -> Commands:
    return Commands(engine, DatabaseClock(), Notifier(engine, {}), Settings())


@pytest.fixture
async def orders(engine: Engine) -> StoredOrders:
    return StoredOrders(engine, DatabaseClock(), Notifier(engine, {}))


async def test_old_orders_are_packed_and_still_found_counted_and_exported(
    engine: Engine, commands: Commands, orders: StoredOrders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "ARCHIVE_STEP", 400)
    day = datetime.now(UTC).date() - timedelta(days=12)
    await ensure_partition(engine, "finished_orders", day)
    async with engine.begin() as connection:
        first, second = await finish(connection, day, 1_000), await finish(connection, day, 10)
    before = await orders.list(OrderFilter(request_id=first), PageRequest(1_000), "olga")
    counts = (await commands.get(first)).orders
    assert (counts.total, counts.failure) == (1_000, 250)
    packing = Maintenance(engine, Settings())
    assert await packing.archive() == 1_010
    assert await packing.archive() == 0
    assert day not in await list_days(engine, "finished_orders")
    assert (await commands.get(first)).orders == counts
    assert [order async for order in orders.stream(first, "olga")] == before.items
    assert await orders.get(before.items[567].order_id, "olga") == before.items[567]
    assert len([order async for order in orders.stream(second, "olga")]) == 10
    async with engine.connect() as connection:
        size = "SELECT sum(octet_length(content)) FROM archived_orders WHERE request_id = :id"
        packed = await connection.scalar(text(size), {"id": first})
    assert packed / 1_000 < 100, "bytes per order"


async def test_a_day_with_an_open_order_is_not_packed(engine: Engine) -> None:
    day = datetime.now(UTC).date() - timedelta(days=20)
    await ensure_partition(engine, "finished_orders", day)
    async with engine.begin() as connection:
        request_id = await finish(connection, day, 10)
        await connection.execute(
            text("""INSERT INTO orders (order_id, request_id, agent_id, agent_groups, expires_at)
                VALUES (:id, :id, :id, '{}', now() + interval '1 h')"""),
            {"id": request_id},
        )
    packing = Maintenance(engine, Settings())
    assert await packing.archive() == 0
    async with engine.begin() as connection:
        await connection.execute(text("DELETE FROM orders"))
    assert await packing.archive() == 10


async def test_old_history_is_deleted_with_its_commands(engine: Engine, commands: Commands) -> None:
    day = datetime.now(UTC).date() - timedelta(days=40)
    await ensure_partition(engine, "finished_orders", day)
    async with engine.begin() as connection:
        request_id = await finish(connection, day, 10)
    packing = Maintenance(engine, Settings())
    await packing.archive()
    assert day in await list_days(engine, "archived_orders")
    await packing.drop_history()
    assert day not in await list_days(engine, "archived_orders")
    kept = await commands.list(OrderFilter(), PageRequest(1_000))
    assert request_id not in [command.request_id for command in kept.items]


async def test_the_statements_of_open_orders_do_not_read_the_history(engine: Engine) -> None:
    """With 200,000 finished orders, the statements read none of their pages."""
    today = datetime.now(UTC).date()
    async with engine.begin() as connection:
        await finish(connection, today, 200_000)
        agent_id = uuid7_at(1_780_000_000)
        await connection.execute(
            text("INSERT INTO agents (id, name, key_hash) VALUES (:id, 'plan', '')"), {"id": agent_id}
        )
        await connection.execute(
            text("""INSERT INTO orders (order_id, request_id, agent_id, agent_groups, expires_at)
                SELECT uuid7(), uuid7(), CASE n WHEN 1 THEN CAST(:id AS uuid) ELSE uuid7() END, '{}',
                    now() + interval '1 h' FROM generate_series(1, 20000) AS n"""),
            {"id": agent_id},
        )
    async with engine.connect() as connection:
        await connection.execute(text("VACUUM ANALYZE orders"))
        await connection.execute(text("VACUUM ANALYZE finished_orders"))
    claim = await explain(engine, leases._CLAIM.text, {"agents": [agent_id], "lease_seconds": 60.0})  # noqa: SLF001
    expire = await explain(engine, transitions._EXPIRE.text, {"limit": 5_000})  # noqa: SLF001
    for plan in (claim, expire):
        assert "Seq Scan on orders" not in plan
        assert "Scan using finished_orders" not in plan
        assert "Scan on finished_orders" not in plan
        assert buffers(plan) < 60, plan
    assert "orders_claim_idx" in claim
    assert "orders_expires_at_idx" in expire


async def explain(engine: Engine, statement: str, parameters: dict[str, object]) -> str:
    async with rolled_back(engine) as connection:
        rows = await connection.scalars(text("EXPLAIN (ANALYZE, BUFFERS, TIMING OFF) " + statement), parameters)
    return "\n".join(rows)


def buffers(plan: str) -> int:
    """Return how many pages the statement read: the first line with a count belongs to the root of the plan."""
    line = next(line for line in plan.splitlines() if "Buffers:" in line)
    return sum(int(word.partition("=")[2]) for word in line.split() if word.startswith(("hit=", "read=")))
