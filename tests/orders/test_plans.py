"""Statements are planned once: a plan made for an empty table is still good for a full table."""

import time

import pytest
from sqlalchemy import text

from comms_api.database.connection import Engine
from comms_api.database.uuid7 import uuid7_at
from comms_api.orders.leases import claim_orders
from comms_api.orders.model import Ending
from comms_api.orders.transitions import expire_orders, finish_orders

pytestmark = pytest.mark.anyio

AGENTS = 1_500
SEQUENTIAL = text("SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = 'orders'")


async def test_a_plan_made_for_an_empty_table_does_not_read_all_of_a_full_table(engine: Engine) -> None:
    ids = [uuid7_at(time.time()) for _ in range(AGENTS)]
    async with engine.connect() as connection:
        await connection.execute(text("TRUNCATE orders"))
        await connection.execute(text("VACUUM ANALYZE orders"))
        nothing = [Ending(agent_id, agent_id, "success", 0, "", None) for agent_id in ids[:5]]
        for _ in range(8):
            await claim_orders(connection, ids[:5], 60)
            await finish_orders(connection, nothing)
        await connection.execute(
            text("""INSERT INTO orders (order_id, request_id, agent_id, agent_groups, expires_at)
                SELECT id, id, id, '{}', now() + interval '1 h' FROM unnest(CAST(:ids AS uuid[])) AS id"""),
            {"ids": ids},
        )
        await connection.execute(text("SELECT pg_stat_force_next_flush()"))
        before = await connection.scalar(SEQUENTIAL)
        await claim_orders(connection, ids, 60)
        endings = [Ending(agent_id, agent_id, "success", 0, "", None) for agent_id in ids]
        assert len(await finish_orders(connection, endings)) == AGENTS
        await connection.execute(text("SELECT pg_stat_force_next_flush()"))
        assert await connection.scalar(SEQUENTIAL) - before <= AGENTS


READ_BY_KEY = text("SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname = 'orders_pkey'")
OPEN = 20_000
OVER = 2_000


async def test_expiry_reads_expired_orders_and_not_all_open_orders(engine: Engine) -> None:
    async with engine.connect() as connection:
        await connection.execute(
            text("""INSERT INTO orders (order_id, request_id, agent_id, agent_groups, expires_at, offer_at)
                SELECT uuid7(), uuid7(), uuid7(), '{}',
                    now() + CASE WHEN number <= :over THEN -1 ELSE 1 END * interval '1 h', now()
                FROM generate_series(1, :open) AS number"""),
            {"open": OPEN, "over": OVER},
        )
        await connection.execute(text("ANALYZE orders"))
        await connection.execute(text("SELECT pg_stat_force_next_flush()"))
        before = await connection.scalar(READ_BY_KEY)
        assert await expire_orders(connection, OVER) == OVER
        await connection.execute(text("SELECT pg_stat_force_next_flush()"))
        assert await connection.scalar(READ_BY_KEY) - before <= 2 * OVER
