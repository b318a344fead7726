"""The figures of the first page: each is read within bounds, however much the tables hold."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from comms_api.agents.counts import count_agents
from comms_api.database.connection import Connection, Engine
from comms_api.database.uuid7 import uuid7_floor
from comms_api.events.reading.model import EventFilter
from comms_api.events.reading.store import count_events
from comms_api.orders.counts import count_recent

pytestmark = pytest.mark.anyio

OTHERS = 5_000
COUNTED = 100
END = 1
"""A scan of an index also reads the entry at which it ends."""

ROWS_READ = text("""
    SELECT coalesce((SELECT sum(seq_tup_read) FROM pg_stat_user_tables WHERE relname ~ :tables), 0)
        + coalesce((SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE relname ~ :tables), 0)""")


async def rows_read(connection: Connection, tables: str) -> int:
    """Return how many rows and index entries of some tables this session has read."""
    await connection.execute(text("SELECT pg_stat_force_next_flush()"))
    return int(await connection.scalar(ROWS_READ, {"tables": f"^{tables}(_[0-9]+)?$"}))


async def test_events_of_other_times_are_not_read(engine: Engine) -> None:
    insert = text("""
        INSERT INTO event_batches (id, agent_id, events, streams, content)
        SELECT uuidv7(make_interval(hours => :hours)), gen_random_uuid(), 10, '{}', ''
        FROM generate_series(1, :number)""")
    async with engine.connect() as connection:
        await connection.execute(insert, {"hours": 2, "number": OTHERS})
        await connection.execute(insert, {"hours": 0, "number": COUNTED})
        await connection.execute(text("ANALYZE event_batches"))
        now = datetime.now(UTC)
        bounds = [uuid7_floor(now + timedelta(minutes=minutes)) for minutes in (-30, 0, 30)]
        before = await rows_read(connection, "event_batches")
        counted = await count_events(connection, bounds, EventFilter(), 1_000)
        assert sum(events for _, events, _ in counted) == 10 * COUNTED
        assert await rows_read(connection, "event_batches") - before <= COUNTED + END
        assert sum(batches for *_, batches in await count_events(connection, bounds, EventFilter(), 20)) == 20
        assert await rows_read(connection, "event_batches") - before <= COUNTED + 20 + 2 * END


async def test_orders_that_ended_earlier_are_not_read(engine: Engine) -> None:
    insert = text("""
        INSERT INTO finished_orders (order_id, request_id, agent_id, agent_groups, attempt, expires_at, status)
        SELECT uuidv7(make_interval(hours => :hours)), gen_random_uuid(), gen_random_uuid(), '{}', 1, now(), 'success'
        FROM generate_series(1, :number)""")
    async with engine.connect() as connection:
        await connection.execute(insert, {"hours": 0, "number": OTHERS})
        await connection.execute(insert, {"hours": 2, "number": COUNTED})
        await connection.execute(
            text("""INSERT INTO orders (order_id, request_id, agent_id, agent_groups, expires_at)
                SELECT uuidv7(), gen_random_uuid(), gen_random_uuid(), '{}', now() + interval '1 h'
                FROM generate_series(1, :number)"""),
            {"number": OTHERS},
        )
        await connection.execute(text("ANALYZE finished_orders, orders"))
        oldest = uuid7_floor(datetime.now(UTC) + timedelta(hours=1))
        ended, opened = await rows_read(connection, "finished_orders"), await rows_read(connection, "orders")
        counts = await count_recent(connection, oldest, 2 * COUNTED)
        assert (counts.success, counts.pending) == (COUNTED, 2 * COUNTED)
        assert await rows_read(connection, "finished_orders") - ended <= COUNTED + END
        assert await rows_read(connection, "orders") - opened <= 2 * COUNTED


async def test_all_counts_of_agents_are_made_in_one_pass(engine: Engine) -> None:
    async with engine.connect() as connection:
        await connection.execute(
            text("""INSERT INTO agents (id, name, key_hash, version, hidden_at, cloned_at)
                SELECT gen_random_uuid(), 'agent-' || n, '', '5.' || n % 20, CASE WHEN n % 10 = 0 THEN now() END,
                    CASE WHEN n % 100 = 1 THEN now() END
                FROM generate_series(1, :number) AS n"""),
            {"number": OTHERS},
        )
        await connection.execute(text("INSERT INTO groups (name) VALUES ('a'), ('b'), ('c')"))
        await connection.execute(
            text("INSERT INTO group_members SELECT named, id FROM agents, unnest('{a,b}'::text[]) AS named")
        )
        await connection.execute(
            text("DELETE FROM group_members WHERE group_name = 'b' AND agent_id > :half"),
            {"half": "80000000-0000-0000-0000-000000000000"},
        )
        await connection.execute(text("ANALYZE agents, group_members"))
        before = await rows_read(connection, "agents")
        counts = await count_agents(connection, 3)
        assert await rows_read(connection, "agents") - before <= OTHERS
    assert counts.statuses == {"never_connected": OTHERS * 9 // 10}
    assert counts.total == OTHERS * 9 // 10
    assert counts.clones == OTHERS // 100
    assert [number for _, number in counts.versions] == [OTHERS // 20] * 3
    assert [name for name, _ in counts.groups] == ["a", "b"]
    assert counts.nodes == {}
