"""The migrations as an operator runs them; they result in the schema that the code expects."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import text
from support.databases import querying
from support.server import environment
from support.waiting import PATIENCE

from comms_api.database.connect import open_engine
from comms_api.database.connection import Connection, Engine
from comms_api.database.migrate import upgrade_schema
from comms_api.database.partitions import create_partitions, drop_partitions, is_partition
from comms_api.database.schema import metadata
from comms_api.database.uuid7 import uuid7_floor
from comms_api.errors import ConfigurationError
from comms_api.settings import Settings

ROOT = Path(__file__).parents[2]
EVENTS = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'event_batches'::regclass ORDER BY 1"


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


def test_the_tables_have_the_storage_parameters_of_the_schema(new_database: Callable[[], str]) -> None:
    # Alembic's check leaves them out.
    options = "SELECT relname, option FROM pg_class, unnest(reloptions) AS option WHERE relkind IN ('r', 'p')"
    stored = {(row["relname"], row["option"]) for row in querying(new_database())(options)}
    assert stored == {
        (table.name, f"{name}={value}")
        for table in metadata.sorted_tables
        for name, value in (table.dialect_options["postgresql"]["with"] or {}).items()
    }


LAST_RELEASED = "0033"
"""The revision of the last release, whose nodes may still run when the first new node migrates.

Nothing has been released, and 0033 drops the table of events, so this is the first revision that a release can have.
"""

COLUMNS = """
    SELECT table_name || '.' || column_name AS name, concat_ws(' ', data_type, is_nullable, column_default) AS shape,
        is_nullable = 'YES' OR column_default IS NOT NULL OR is_identity = 'YES' AS may_be_missing
    FROM information_schema.columns JOIN pg_class ON relname = table_name
    WHERE table_schema = 'public' AND NOT relispartition AND table_name <> 'alembic_version'"""
RULES = """
    SELECT relname, rule FROM pg_class JOIN (
        SELECT conrelid, pg_get_constraintdef(oid) FROM pg_constraint WHERE contype <> 'n'
        UNION SELECT indrelid, pg_get_indexdef(indexrelid) FROM pg_index WHERE indisunique
        -- Triggers that only note rows in a queue cannot refuse what the last release writes.
        UNION SELECT tgrelid, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal AND tgname !~ '^note_'
    ) AS rules (relation, rule) ON relation = pg_class.oid
    WHERE relnamespace = 'public'::regnamespace AND NOT relispartition"""
Shape = tuple[dict[str, tuple[str, bool]], set[tuple[str, str]]]


def shape(url: str) -> Shape:
    """Return the columns and constraints of all tables."""
    columns = {row["name"]: (row["shape"], row["may_be_missing"]) for row in querying(url)(COLUMNS)}
    return columns, {(row["relname"], row["rule"]) for row in querying(url)(RULES)}


def faults(before: Shape, after: Shape) -> list[str]:
    """Return the changes that would break code written for the earlier schema."""
    (old, old_rules), (new, new_rules) = before, after
    tables = {name.split(".")[0] for name in old}
    changed = [name for name in old if new.get(name) != old[name]]
    needed = [
        name
        for name, (_, may_be_missing) in new.items()
        if name not in old and name.split(".")[0] in tables and not may_be_missing
    ]
    rules = [rule for table, rule in old_rules ^ new_rules if table in tables]
    return sorted(changed + needed + rules)


def test_the_last_release_finds_every_column_that_it_uses(folder: Path, new_database: Callable[[], str]) -> None:
    url = new_database()
    env = environment(folder, url)
    alembic(env, "downgrade", LAST_RELEASED)
    before = shape(url)
    alembic(env, "upgrade", "head")
    assert faults(before, shape(url)) == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ("ALTER TABLE groups ADD must integer NOT NULL", "groups.must"),
        ("ALTER TABLE groups DROP precedence", "groups.precedence"),
        ("ALTER TABLE groups ALTER precedence TYPE bigint", "groups.precedence"),
        ("ALTER TABLE groups ADD CHECK (precedence > 0)", "CHECK ((precedence > 0))"),
        ("CREATE UNIQUE INDEX strict ON groups (precedence)", "CREATE UNIQUE INDEX strict"),
        ("ALTER TABLE groups ADD may integer", ""),
        ("ALTER TABLE groups ADD may integer NOT NULL DEFAULT 1", ""),
        ("CREATE TABLE more (must integer PRIMARY KEY)", ""),
    ],
)
def test_a_change_that_breaks_the_last_release_is_found(
    new_database: Callable[[], str], change: str, fault: str
) -> None:
    url = new_database()
    before = shape(url)
    querying(url)(change)
    assert [one[: len(fault)] for one in faults(before, shape(url))] == ([fault] if fault else [])


def test_an_embedded_database_migrates_by_the_alembic_command(folder: Path) -> None:
    home = folder / "embedded"
    home.mkdir()
    env = environment(home, None)
    alembic(env, "upgrade", "head")
    alembic(env, "check")


OLD = """CREATE TABLE event_batches_20200102 (LIKE event_batches INCLUDING ALL);
    ALTER TABLE event_batches ATTACH PARTITION event_batches_20200102 FOR VALUES FROM ('{}') TO ('{}')"""


@pytest.mark.anyio
async def test_partitions_are_made_ahead_and_dropped_by_age_without_stopping_a_writer(engine: Engine) -> None:
    bounds = [uuid7_floor(datetime(2020, 1, day, tzinfo=UTC)) for day in (2, 3)]
    async with engine.begin() as connection:
        for statement in OLD.format(*bounds).split(";"):
            await connection.execute(text(statement))
        await connection.execute(text("DROP TABLE " + (await partitions(connection))[-1]))
    async with engine.connect() as writer:
        await writer.driver.execute("BEGIN")
        # An uncommitted row holds the same lock as ingestion.
        await writer.execute(text("INSERT INTO event_batches VALUES (uuid7(), uuid7(), 1, '{}', '')"))
        made = await asyncio.wait_for(create_partitions(engine), PATIENCE)
        assert [is_partition(name) for name in made] == [True]
        dropping = asyncio.create_task(drop_partitions(engine, "event_batches", 30))
        await asyncio.sleep(0.3)
        # Detaching waits for the writer, and no writer waits for it.
        async with engine.begin() as another:
            await another.execute(text("INSERT INTO event_batches VALUES (uuid7(), uuid7(), 1, '{}', '')"))
        await writer.driver.execute("COMMIT")
        assert await asyncio.wait_for(dropping, PATIENCE) == ["event_batches_20200102"]
    async with engine.connect() as connection:
        names = await partitions(connection)
        assert "event_batches_20200102" not in names
        assert len(names) == 9
    assert await create_partitions(engine) == await drop_partitions(engine, "event_batches", 30) == []


async def partitions(connection: Connection) -> list[str]:
    return await connection.scalars(text(EVENTS))


@pytest.fixture
def own_database(new_database: Callable[[], str]) -> str:
    """A database that one test may change freely."""
    return new_database()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("postgresql://h/name?conect_timeout=3", "FAILED: database_url: conect_timeout: no such parameter"),
        ("postgresql://127.0.0.1:1/name", "FAILED: the database cannot be used: ConnectionRefusedError"),
        ("mysql://h/name", "FAILED: database_url: must begin with postgresql://"),
    ],
)
def test_the_alembic_command_says_in_one_line_why_it_cannot_work(folder: Path, url: str, reason: str) -> None:
    command = [sys.executable, "-m", "alembic", "upgrade", "head"]
    done = subprocess.run(command, cwd=ROOT, env=environment(folder, url), capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert reason in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("preparation", "reason"),
    [
        ("UPDATE alembic_version SET version_num = '0000x'", "the schema cannot be upgraded: Can't locate revision"),
        ("DELETE FROM alembic_version", "the schema cannot be created in this database: Duplicate"),
    ],
)
async def test_a_database_that_holds_something_else_is_refused_in_one_line(
    own_database: str, preparation: str, reason: str
) -> None:
    engine = open_engine(own_database, Settings())
    async with engine.begin() as connection:
        await connection.execute(text(preparation))
    with pytest.raises(ConfigurationError) as caught:
        await upgrade_schema(engine)
    await engine.dispose()
    assert str(caught.value).startswith(f"database_url: {reason}")
    assert "\n" not in str(caught.value)
