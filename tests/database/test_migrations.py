"""The migrations, as an operator runs them; and that they end at the schema that the code believes in."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from conftest import querying
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from support.server import environment

from comms_api.database.partitions import create_partitions, drop_partitions, is_partition
from comms_api.database.uuid7 import uuid7_at, uuid7_floor, uuid7_time

ROOT = Path(__file__).parents[2]
EVENTS = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'events'::regclass ORDER BY 1"


def alembic(env: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "alembic", *arguments], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_up_down_and_up_again_agree_with_the_schema(folder: Path, new_database: Callable[[], str]) -> None:
    url = new_database()
    env = environment(folder, url)
    alembic(env, "check")
    alembic(env, "downgrade", "base")
    tables = querying(url)("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'")
    assert [row[0] for row in tables] == ["alembic_version"]
    alembic(env, "upgrade", "head")
    assert "No new upgrade operations detected" in alembic(env, "check")


def test_an_embedded_database_migrates_by_the_alembic_command(folder: Path) -> None:
    home = folder / "embedded"
    home.mkdir()
    env = environment(home, None)
    alembic(env, "upgrade", "head")
    alembic(env, "check")


OLD = """CREATE TABLE events_20200102 (LIKE events INCLUDING ALL);
    ALTER TABLE events ATTACH PARTITION events_20200102 FOR VALUES FROM ('{}') TO ('{}')"""


@pytest.mark.anyio
async def test_partitions_are_made_ahead_and_dropped_by_age_without_stopping_a_writer(engine: AsyncEngine) -> None:
    bounds = [uuid7_floor(datetime(2020, 1, day, tzinfo=UTC)) for day in (2, 3)]
    async with engine.begin() as connection:
        for statement in OLD.format(*bounds).split(";"):
            await connection.execute(text(statement))
        await connection.execute(text("DROP TABLE " + (await partitions(connection))[-1]))
    async with engine.connect() as writer:
        # A row that is not committed holds the lock that ingestion holds.
        await writer.execute(text("INSERT INTO events VALUES (uuid7(), uuid7(), 'm', 'c', '{}')"))
        made = await asyncio.wait_for(create_partitions(engine), 5)
        assert [is_partition(name) for name in made] == [True]
        dropping = asyncio.create_task(drop_partitions(engine, "events", 30))
        await asyncio.sleep(0.3)
        # Detaching waits for the writer, and nobody waits for the detaching.
        async with engine.begin() as another:
            await another.execute(text("INSERT INTO events VALUES (uuid7(), uuid7(), 'm', 'c', '{}')"))
        await writer.commit()
        assert await asyncio.wait_for(dropping, 10) == ["events_20200102"]
    async with engine.connect() as connection:
        names = await partitions(connection)
        assert "events_20200102" not in names
        assert len(names) == 9
    assert await create_partitions(engine) == await drop_partitions(engine, "events", 30) == []


async def partitions(connection: AsyncConnection) -> list[str]:
    return list(await connection.scalars(text(EVENTS)))


def test_an_id_tells_the_millisecond_it_was_made_in() -> None:
    moment = datetime(2026, 11, 21, 4, 22, 33, 123_000, tzinfo=UTC)
    assert uuid7_time(uuid7_floor(moment)) == moment
    made = uuid7_at(moment.timestamp())
    assert (made.version, made.variant, uuid7_time(made)) == (7, "specified in RFC 4122", moment)
