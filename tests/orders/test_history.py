"""An agent's orders are listed with its archived ones, in bounded pages that are complete together."""

from datetime import UTC, date, datetime, timedelta
from itertools import count
from uuid import UUID, uuid4

import msgspec
import pytest
from sqlalchemy import text

from comms_api.database.connection import Engine
from comms_api.database.listener import Notifier
from comms_api.database.pages import Order, PageRequest
from comms_api.database.partitions import ensure_partition
from comms_api.database.uuid7 import DatabaseClock, uuid7_at
from comms_api.orders import queries
from comms_api.orders.archive import history, maintenance
from comms_api.orders.archive.maintenance import Maintenance
from comms_api.orders.model import OrderFilter, StoredOrder
from comms_api.orders.service import StoredOrders
from comms_api.settings import Settings

pytestmark = pytest.mark.anyio

COMMAND = """
    INSERT INTO commands (request_id, source, user_name, target_type, target_ids, action_name, action_version,
        action_args, timeout_seconds, expires_at, created_at)
    VALUES (:id, 'Engine', :user, 'all', '{}', 'a', '', '{}', 60, :at, :at)"""
FINISHED = """
    INSERT INTO finished_orders (order_id, request_id, agent_id, agent_groups, attempt, created_at, expires_at,
        finished_at, status, result_code)
    SELECT order_id, :id, agent_id, '{}', 1, :at, :at, :at, 'failure', :code
    FROM unnest(CAST(:orders AS uuid[]), CAST(:agents AS uuid[])) AS new (order_id, agent_id)"""
COMMANDS = 12
NUMBERS = count(1_000, 2)
"""Each test of a command gets its own seconds of the day."""


@pytest.fixture
def orders(engine: Engine) -> StoredOrders:
    return StoredOrders(engine, DatabaseClock(), Notifier(engine, {}))


async def finish(engine: Engine, day: date, agents: list[UUID], number: int) -> list[UUID]:
    """Write the orders of a command, one per agent, ended with the code `number` modulo 3; return their ids."""
    at = datetime(day.year, day.month, day.day, 12, tzinfo=UTC) + timedelta(seconds=number)
    ids = [uuid7_at(at.timestamp() + place / 1000) for place in range(len(agents))]
    values = {"id": uuid7_at(at.timestamp()), "user": f"user {number % 2}", "at": at}
    async with engine.begin() as connection:
        await connection.execute(text(COMMAND), values)
        await connection.execute(text(FINISHED), values | {"orders": ids, "agents": agents, "code": number % 3})
    return ids


async def read(
    orders: StoredOrders, order_filter: OrderFilter, requested: PageRequest
) -> tuple[list[StoredOrder], int]:
    """Return all orders that match, and the number of pages."""
    found: list[StoredOrder] = []
    for pages in range(1, 1_000):
        page = await orders.list(order_filter, requested, "olga")
        assert len(page.items) <= requested.limit
        found += page.items
        if page.next is None:
            return found, pages
        after = UUID(page.next)
        assert requested.after is None or requested.is_before(requested.after, after)
        requested = msgspec.structs.replace(requested, after=after)
    raise AssertionError("the pages do not end")


async def fill(engine: Engine) -> tuple[UUID, list[UUID]]:
    """Write an agent's orders of an archived day and of today, all commands with other agents; return its orders."""
    agent_id, *others = [uuid7_at(1_780_000_000 + number) for number in range(4)]
    today = datetime.now(UTC).date()
    old = today - timedelta(days=20)
    await ensure_partition(engine, "finished_orders", old)
    expected = []
    for number in range(COMMANDS):
        place = number % 4
        agents = [*others[:place], agent_id, *others[place:]]
        expected.append((await finish(engine, old, agents, number))[place])
    assert await Maintenance(engine, Settings()).archive() == 4 * COMMANDS
    for number in range(COMMANDS):
        expected += await finish(engine, today, [agent_id], number)
    return agent_id, expected


@pytest.mark.parametrize("order", ["oldest", "newest"])
@pytest.mark.parametrize(("limit", "chunks"), [(200, 200), (5, 200), (7, 3), (1, 1)])
async def test_the_orders_of_an_agent_include_the_archive(  # noqa: PLR0913 - the fixtures count
    engine: Engine, orders: StoredOrders, monkeypatch: pytest.MonkeyPatch, limit: int, chunks: int, order: Order
) -> None:
    monkeypatch.setattr(history, "CHUNKS_MAXIMUM", chunks)
    agent_id, expected = await fill(engine)
    found, _ = await read(orders, OrderFilter(agent_id=agent_id), PageRequest(limit, order=order))
    if order == "newest":
        found.reverse()
    assert [order.order_id for order in found] == expected
    assert [order.result.code for order in found] == [number % 3 for number in range(COMMANDS)] * 2
    assert await orders.get(expected[0], "olga") == found[0]


@pytest.mark.parametrize("order", ["oldest", "newest"])
@pytest.mark.parametrize(("limit", "chunks", "step"), [(200, 20, 5_000), (3, 20, 5_000), (3, 20, 4), (2, 1, 4)])
async def test_the_orders_of_a_command_include_the_archive(  # noqa: PLR0913 - the fixtures count
    engine: Engine,
    orders: StoredOrders,
    monkeypatch: pytest.MonkeyPatch,
    limit: int,
    chunks: int,
    step: int,
    order: Order,
) -> None:
    monkeypatch.setattr(history, "COMMAND_CHUNKS_MAXIMUM", chunks)
    monkeypatch.setattr(maintenance, "ARCHIVE_STEP", step)
    old = datetime.now(UTC).date() - timedelta(days=20)
    await ensure_partition(engine, "finished_orders", old)
    number = next(NUMBERS)
    expected = await finish(engine, old, [uuid4() for _ in range(10)], number)
    await finish(engine, old, [uuid4() for _ in range(3)], number + 1)
    await Maintenance(engine, Settings()).archive()
    request_id = (await orders.get(expected[0], "olga")).request_id
    found, _ = await read(orders, OrderFilter(request_id=request_id), PageRequest(limit, order=order))
    assert [order.order_id for order in found] == (expected if order == "oldest" else expected[::-1])
    failed, _ = await read(orders, OrderFilter(request_id=request_id, outcome="failed"), PageRequest(limit))
    assert [order.order_id for order in failed] == expected
    nothing, _ = await read(orders, OrderFilter(request_id=request_id, status="success"), PageRequest(limit))
    assert nothing == []
    assert [order.order_id async for order in orders.stream(request_id, "olga")] == expected


async def test_the_archive_is_not_unpacked_for_a_page_that_newer_orders_fill(
    engine: Engine, orders: StoredOrders
) -> None:
    agent_id, expected = await fill(engine)
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE archived_orders SET content = 'damaged'"))
    page = await orders.list(OrderFilter(agent_id=agent_id), PageRequest(5, order="newest"), "olga")
    async with engine.begin() as connection:
        await connection.execute(text("TRUNCATE archived_orders"))
    assert [order.order_id for order in page.items] == expected[:-6:-1]


async def test_chunks_that_name_no_agents_are_read_for_every_agent(engine: Engine, orders: StoredOrders) -> None:
    agent_id, expected = await fill(engine)
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE archived_orders SET agents = '{}'"))
    found, _ = await read(orders, OrderFilter(agent_id=agent_id), PageRequest(5))
    assert [order.order_id for order in found] == expected


async def test_filters_by_code_user_and_time_see_the_archive_too(engine: Engine, orders: StoredOrders) -> None:
    agent_id, expected = await fill(engine)
    codes, _ = await read(orders, OrderFilter(agent_id=agent_id, code=2), PageRequest(200))
    assert [order.order_id for order in codes] == expected[2::3]
    users, _ = await read(orders, OrderFilter(agent_id=agent_id, user="user 1"), PageRequest(3))
    assert [order.order_id for order in users] == expected[1::2]
    begin, end = codes[1].created_at, codes[3].created_at
    between, _ = await read(orders, OrderFilter(agent_id=agent_id), PageRequest(since=begin, until=end))
    assert [order.order_id for order in between] == expected[5:11]
    latest = await orders.list(OrderFilter(agent_id=agent_id), PageRequest(2, None, "newest", begin, end), "olga")
    assert [order.order_id for order in latest.items] == [expected[10], expected[9]]
    nothing, _ = await read(orders, OrderFilter(agent_id=agent_id, status="success"), PageRequest())
    assert nothing == []


@pytest.mark.parametrize("order", ["oldest", "newest"])
async def test_a_page_examines_a_bounded_number_of_orders(
    engine: Engine, orders: StoredOrders, monkeypatch: pytest.MonkeyPatch, order: Order
) -> None:
    monkeypatch.setattr(queries, "SCANNED_MAXIMUM", 4)
    agent_id = uuid7_at(1_780_000_000)
    day = datetime.now(UTC).date() - timedelta(days=3 if order == "oldest" else 4)
    await ensure_partition(engine, "finished_orders", day)
    since = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    expected = [await finish(engine, day, [agent_id], number) for number in range(COMMANDS)]
    requested = PageRequest(200, None, order, since, since + timedelta(seconds=COMMANDS))
    found, pages = await read(orders, OrderFilter(code=1), requested)
    assert {order.order_id for order in found} == {ids[0] for ids in expected[1::3]}
    assert pages == COMMANDS / 4 + 1


async def test_one_agent_is_found_among_many_chunks_by_the_index(engine: Engine) -> None:
    await ensure_partition(engine, "archived_orders", date(2026, 1, 1))
    first = uuid7_at(datetime(2026, 1, 1, 12, tzinfo=UTC).timestamp())
    values = {"prefix": str(first)[:24], "agents": 20_000}
    async with engine.begin() as connection:
        await connection.execute(
            text("""INSERT INTO archived_orders (chunk_id, last_order_id, request_id, success, failure, cancelled,
                    content, agents)
                SELECT id, id, id, 1, 0, 0, 'content', ARRAY[n, n + 1, n + 2] FROM (
                    SELECT CAST(:prefix || lpad(to_hex(n), 12, '0') AS uuid) AS id, n
                    FROM generate_series(1, :agents) AS n) AS chunks"""),
            values,
        )
    async with engine.connect() as connection:
        await connection.execute(text("VACUUM ANALYZE archived_orders"))
        condition = "agents @> CAST(:agents AS int[]) OR agents = CAST('{}' AS int[])"
        statement = f"EXPLAIN SELECT chunk_id FROM archived_orders WHERE {condition} OFFSET 0"
        plan = "\n".join(await connection.scalars(text(statement), {"agents": [17]}))
    assert "Bitmap Index Scan on archived_orders_20260101_agents_idx" in plan, plan
