"""The life of orders under concurrency: only the transaction that deletes the row ends the order."""

import asyncio
from collections import Counter
from datetime import UTC, datetime
from itertools import pairwise
from uuid import UUID

import pytest
from sqlalchemy import text

from comms_api.commands.model import NewCommand
from comms_api.commands.submission.expansion import expand_command, expansion_of
from comms_api.database.connection import Connection, Engine
from comms_api.database.pages import PageRequest
from comms_api.database.uuid7 import uuid7_at, uuid7_floor
from comms_api.orders import leases, queries
from comms_api.orders.archive.maintenance import Maintenance
from comms_api.orders.leases import ANSWER_BYTES_MAXIMUM, claim_orders, release_orders
from comms_api.orders.model import Claimed, CommandTarget, Ending, OrderFilter
from comms_api.orders.transitions import cancel_order, expire_orders, find_statuses, finish_orders
from comms_api.protocol import Action
from comms_api.settings import Settings

pytestmark = pytest.mark.anyio


async def make_orders(connection: Connection, agents: int, seconds: float = 60) -> list[UUID]:
    """Enroll agents in a new group and submit a command to it; return their ids."""
    group = uuid7_at(1_780_000_000).hex
    ids = [uuid7_at(1_780_000_000) for _ in range(agents)]
    await connection.execute(text("INSERT INTO groups (name) VALUES (:group)"), {"group": group})
    for agent_id in ids:
        values = {"id": agent_id, "name": str(agent_id), "group": group}
        await connection.execute(text("INSERT INTO agents (id, name, key_hash) VALUES (:id, :name, '')"), values)
        await connection.execute(text("INSERT INTO group_members VALUES (:group, :id)"), values)
    assert await submit(connection, CommandTarget("group", group), seconds=seconds) == agents
    return ids


async def submit(connection: Connection, target: CommandTarget, seconds: float = 60, priority: int = 0) -> int:
    command = NewCommand("Engine", target, Action("a"), seconds, priority=priority)
    expansion = expansion_of(uuid7_at(1_780_000_000), "tester", command, 3600)
    return (await expand_command(connection, expansion, 3)).orders


def success(order_id: UUID, agent_id: UUID, message: str = "") -> Ending:
    return Ending(order_id, agent_id, "success", 0, message, None)


async def test_concurrent_claimers_never_claim_an_order_twice(engine: Engine) -> None:
    async with engine.begin() as connection:
        ids = await make_orders(connection, 60)

    async def claim() -> list[str]:
        async with engine.begin() as connection:
            return [claim.order.order_id for claim in await claim_orders(connection, ids, 60)]

    claimed = Counter(order for orders in await asyncio.gather(*(claim() for _ in range(6))) for order in orders)
    assert len(claimed) == 60
    assert set(claimed.values()) == {1}


async def test_exactly_one_of_concurrent_results_cancellations_and_expiry_ends_an_order(engine: Engine) -> None:
    async with engine.begin() as connection:
        ids = await make_orders(connection, 40)
        claimed = await claim_orders(connection, ids, 60)
        await connection.execute(
            text("UPDATE orders SET expires_at = now() WHERE agent_id = ANY(CAST(:ids AS uuid[]))"), {"ids": ids}
        )

    async def report(claim: Claimed, message: str) -> int:
        async with engine.begin() as connection:
            ending = success(UUID(claim.order.order_id), claim.agent_id, message)
            return len(await finish_orders(connection, [ending]))

    async def cancel(claim: Claimed) -> int:
        async with engine.begin() as connection:
            return (await cancel_order(connection, UUID(claim.order.order_id), "tester"))[0]

    async def expire() -> int:
        async with engine.begin() as connection:
            return await expire_orders(connection, 7)

    ended = await asyncio.gather(
        *(report(claim, message) for claim in claimed for message in ("one", "two")),
        *map(cancel, claimed),
        *(expire() for _ in range(12)),
    )
    assert sum(ended) == 40
    async with engine.connect() as connection:
        for agent_id in ids:
            orders = (await queries.list_orders(connection, OrderFilter(agent_id=agent_id), PageRequest())).items
            assert len(orders) == 1
            assert orders[0].status in {"success", "failure", "cancelled"}


async def test_an_agent_cannot_end_another_agents_order_or_an_order_that_was_not_offered(engine: Engine) -> None:
    async with engine.begin() as connection:
        first, second = await make_orders(connection, 2)
        [order] = (await queries.list_orders(connection, OrderFilter(agent_id=second), PageRequest())).items
        assert await finish_orders(connection, [success(order.order_id, second)]) == {}
        await claim_orders(connection, [second], 60)
        assert await finish_orders(connection, [success(order.order_id, first)]) == {}
        assert await find_statuses(connection, [(order.order_id, first)]) == {}
        assert set(await finish_orders(connection, [success(order.order_id, second)])) == {(order.order_id, second)}
        assert await finish_orders(connection, [success(order.order_id, second)]) == {}


async def test_releasing_a_claim_restores_the_order(engine: Engine) -> None:
    async with engine.begin() as connection:
        [agent_id] = await make_orders(connection, 1)
        before = await queries.list_orders(connection, OrderFilter(agent_id=agent_id), PageRequest())
        await release_orders(connection, await claim_orders(connection, [agent_id], 60))
        assert await queries.list_orders(connection, OrderFilter(agent_id=agent_id), PageRequest()) == before
        assert len(await claim_orders(connection, [agent_id], 60)) == 1


async def test_an_agent_gets_all_of_its_orders_the_most_urgent_first_and_then_the_oldest(engine: Engine) -> None:
    async with engine.begin() as connection:
        [agent_id] = await make_orders(connection, 1)
        for number in range(120):
            await submit(connection, CommandTarget("agent", str(agent_id)), priority=number % 3)
        claimed = await claim_orders(connection, [agent_id], 60)
        urgent = await connection.scalars(
            text("SELECT order_id FROM orders WHERE agent_id = :id ORDER BY -priority, position"), {"id": agent_id}
        )
        assert [UUID(claim.order.order_id) for claim in claimed] == list(urgent)
        assert len(claimed) == 121


async def test_orders_too_large_for_one_answer_come_in_several(engine: Engine) -> None:
    async with engine.begin() as connection:
        [agent_id] = await make_orders(connection, 1)
        await connection.execute(
            text("UPDATE orders SET bytes = :bytes WHERE agent_id = :id"),
            {"bytes": ANSWER_BYTES_MAXIMUM, "id": agent_id},
        )
        await submit(connection, CommandTarget("agent", str(agent_id)))
        assert [len(await claim_orders(connection, [agent_id], 60)) for _ in range(3)] == [1, 1, 0]


async def test_a_claim_reads_open_orders_by_their_index(engine: Engine) -> None:
    async with engine.begin() as connection:
        await connection.execute(
            text("""INSERT INTO orders (order_id, request_id, agent_id, agent_groups, expires_at)
                SELECT uuid7(), uuid7(), gen_random_uuid(), '{}', now() + interval '1 h'
                FROM generate_series(1, 50000)""")
        )
    async with engine.begin() as connection:
        await connection.execute(text("ANALYZE orders"))
        rows = await connection.scalars(
            text("EXPLAIN " + leases._CLAIM.text),  # noqa: SLF001 - the test checks its plan
            {"agents": [uuid7_at(1_780_000_000)] * 2000, "lease_seconds": 1.0},
        )
        plan = "\n".join(rows)
    assert "orders_claim_idx" in plan
    assert "Seq Scan on orders" not in plan


async def test_history_is_dropped_by_age_but_not_under_an_open_order(engine: Engine) -> None:
    maintenance = Maintenance(engine, Settings())
    days = [datetime(2020, 1, day, tzinfo=UTC) for day in (1, 2, 3)]
    async with engine.begin() as connection:
        await connection.execute(text("DELETE FROM orders"))
        for first, last in pairwise(days):
            name = f"finished_orders_{first:%Y%m%d}"
            bounds = f"FROM ('{uuid7_floor(first)}') TO ('{uuid7_floor(last)}')"
            await connection.execute(text(f"CREATE TABLE {name} (LIKE finished_orders INCLUDING ALL)"))
            await connection.execute(text(f"ALTER TABLE finished_orders ATTACH PARTITION {name} FOR VALUES {bounds}"))
        forgotten = {"id": uuid7_at(days[1].timestamp())}
        await connection.execute(
            text("""INSERT INTO orders (order_id, request_id, agent_id, agent_groups, expires_at)
                VALUES (:id, :id, :id, '{}', now())"""),
            forgotten,
        )
    await maintenance.archive()
    assert await old_partitions(engine) == ["finished_orders_20200102"]
    assert await maintenance.expire() == 1
    await maintenance.archive()
    assert await old_partitions(engine) == []


async def old_partitions(engine: Engine) -> list[str]:
    async with engine.connect() as connection:
        names = "SELECT relname FROM pg_class WHERE relname LIKE 'finished_orders_2020____' ORDER BY 1"
        return await connection.scalars(text(names))
