"""Daily partitions of the tables that grow without limit: created ahead and dropped by age, without blocking writers.

A partition is created as a plain table and then attached; it is detached concurrently before it is dropped. Both take
SHARE UPDATE EXCLUSIVE on the parent, which does not conflict with INSERT or COPY (PostgreSQL manual, ALTER TABLE).
There is no default partition, since PostgreSQL refuses `DETACH … CONCURRENTLY` if there is one.
"""

import logging
import re
from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta

from sqlalchemy import text

from comms_api.database.connection import Connection, Engine
from comms_api.database.schema import PARTITIONED_TABLES
from comms_api.database.uuid7 import uuid7_floor

logger = logging.getLogger(__name__)

DAYS_AHEAD = 7
DAYS_BEHIND = 1
PARTITIONS_LOCK = 0x7061727473
_NAME = re.compile(rf"^({'|'.join(PARTITIONED_TABLES)})_(\d{{8}})$")


def is_partition(name: str) -> bool:
    """Return whether this is the name of a daily partition."""
    return _NAME.match(name) is not None


def partition_name(table: str, day: date) -> str:
    """Return the name of the partition for ids created on `day` (UTC)."""
    return f"{table}_{day:%Y%m%d}"


def partition_day(name: str) -> date:
    """Return the day of a partition."""
    return datetime.strptime(name[-8:], "%Y%m%d").replace(tzinfo=UTC).date()


async def create_partitions(engine: Engine) -> list[str]:
    """Create the missing partitions from yesterday to a week ahead and return their names; idempotent."""
    async with engine.begin() as connection:
        # Two nodes that create the same partition at once would make each other fail.
        await connection.take_turns(PARTITIONS_LOCK)
        await connection.execute(text("SET LOCAL lock_timeout = '5s'"))
        today: date = await connection.scalar(text("SELECT (now() AT TIME ZONE 'UTC')::date"))
        existing = await _partitions(connection)
        missing = [
            (table, day)
            for table in PARTITIONED_TABLES
            for day in (today + timedelta(days=ahead) for ahead in range(-DAYS_BEHIND, DAYS_AHEAD + 1))
            if partition_name(table, day) not in existing
        ]
        for table, day in missing:
            await _create(connection, table, day)
    return [partition_name(table, day) for table, day in missing]


async def list_days(engine: Engine, table: str) -> list[date]:
    """Return the days that `table` has partitions for, oldest first."""
    async with engine.connect() as connection:
        names = await _partitions(connection)
    return sorted(partition_day(name) for name in names if name == partition_name(table, partition_day(name)))


async def ensure_partition(engine: Engine, table: str, day: date) -> None:
    """Create the partition of a day if it is missing."""
    async with engine.begin() as connection:
        await connection.take_turns(PARTITIONS_LOCK)
        if partition_name(table, day) not in await _partitions(connection):
            await _create(connection, table, day)


async def drop_partitions(engine: Engine, table: str, older_than_days: int) -> list[str]:
    """Drop the partitions of `table` older than `older_than_days` days; return their names."""
    async with engine.connect() as connection:
        today: date = await connection.scalar(text("SELECT (now() AT TIME ZONE 'UTC')::date"))
    return await drop_partitions_before(engine, table, today - timedelta(days=older_than_days))


async def drop_partitions_before(engine: Engine, table: str, oldest: date) -> list[str]:
    """Drop the partitions of `table` of the days before `oldest`; return their names.

    Idempotent: if a node dies after it detached a partition, the next node drops that partition.
    """
    async with engine.connect() as connection:
        names = [
            name
            for name in await _partitions(connection)
            if name.startswith(f"{table}_") and partition_day(name) < oldest
        ]
        if names:
            async with connection.try_lock(PARTITIONS_LOCK) as is_locked:
                if is_locked:
                    await _drop(connection, table, names)
    return names


async def _create(connection: Connection, table: str, day: date) -> None:
    name = partition_name(table, day)
    start = datetime.combine(day, time.min, UTC)
    low, high = uuid7_floor(start), uuid7_floor(start + timedelta(days=1))
    await connection.execute(text(f"CREATE TABLE {name} (LIKE {table} INCLUDING ALL)"))
    await connection.execute(
        text(f"ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES FROM ('{low}') TO ('{high}')")
    )


async def _drop(connection: Connection, table: str, names: Iterable[str]) -> None:
    for name in names:
        attached = await connection.scalar(
            text("SELECT inhdetachpending FROM pg_inherits WHERE inhrelid = to_regclass(:name)"),
            {"name": name},
        )
        if attached is not None:
            mode = "FINALIZE" if attached else "CONCURRENTLY"
            await connection.execute(text(f"ALTER TABLE {table} DETACH PARTITION {name} {mode}"))
        await connection.execute(text(f"DROP TABLE IF EXISTS {name}"))
        logger.info("dropped partition %s", name)


async def _partitions(connection: Connection) -> set[str]:
    # By name, not by pg_inherits, so that detached partitions that were not dropped yet are found as well.
    names = await connection.scalars(
        text("SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = current_schema()::regnamespace")
    )
    return {name for name in names if is_partition(name)}
