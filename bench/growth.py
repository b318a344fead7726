"""The same system twice, small and grown: two schemas of one database, either of which is the server's at a time.

Renaming a schema takes a millisecond, and PostgreSQL plans every statement anew for the tables that now have its name.
So the small and the grown tables are measured in turns, and what slows a machine down for a while slows both.
"""

import statistics
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, time, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from bench.figures import Effort
from bench.system import System
from comms_api.database.connect import open_engine
from comms_api.database.migrate import upgrade_schema
from comms_api.database.partitions import create_partitions, partition_name
from comms_api.database.uuid7 import uuid7_floor
from comms_api.settings import Settings

ACTING = 2_000
"""The agents that do something, in the small and in the grown fleet."""

FLEET = 100_000
DAYS = 10
"""The grown tables' rows are spread over the partitions of so many days, today's included."""

_COPY = "; ".join(
    f"INSERT INTO public.{table} SELECT * FROM grown.{table} ON CONFLICT DO NOTHING"
    for table in ("users", "signing_keys", "groups", "agents", "group_members")
)
_IDS = "uuidv7($2::timestamptz - clock_timestamp() + (n::float8 / $1::int) * $3::interval)"


class Filling(msgspec.Struct, frozen=True):
    """How a partitioned table is filled: what each row holds, beside its id, of a number `n` and the agents `$4`."""

    table: str
    id_column: str
    columns: str
    values: str


class Twins:
    """The two schemas."""

    def __init__(self, system: System, connection: asyncpg.Connection) -> None:
        self._system = system
        self._connection = connection
        self._absent = "grown"
        self.fleet: list[UUID] = []

    async def make(self, group: str, fleet: int) -> list[UUID]:
        """Make both; return the agents that act in both, which are a group of theirs, spread over the grown fleet."""
        await self._connection.execute("ALTER SYSTEM SET autovacuum = off")  # it would run in some of the rounds only
        await self._connection.execute("SELECT pg_reload_conf()")
        self.fleet = sorted(await self._system.enroll(fleet, "fleet"))
        acting = self.fleet[:: fleet // ACTING][:ACTING]
        await self._connection.execute("INSERT INTO groups (name) VALUES ($1)", group)
        await self._connection.execute("INSERT INTO group_members SELECT $1, unnest($2::uuid[])", group, acting)
        await self._connection.execute("ALTER SCHEMA public RENAME TO grown; CREATE SCHEMA public")
        await self._migrate()
        await self._connection.execute(_COPY)
        await self._connection.execute("DELETE FROM agents WHERE id <> ALL($1::uuid[])", acting)
        await self._connection.execute("VACUUM FULL ANALYZE")
        return acting

    async def _migrate(self) -> None:
        engine = open_engine(self._system.cluster.url, Settings())
        await upgrade_schema(engine)
        await create_partitions(engine)
        await engine.dispose()

    async def use(self, name: str) -> None:
        """Let the server work on the small or the grown tables."""
        if name == self._absent:
            other = "grown" if name == "small" else "small"
            await self._connection.execute(
                f"ALTER SCHEMA public RENAME TO {other}; ALTER SCHEMA {name} RENAME TO public"
            )
            self._absent = other

    async def fill(self, filling: Filling, rows: int) -> None:
        """Give a grown table so many rows: partitions made anew, indexed once they are full, and vacuumed."""
        await self.use("grown")
        today = datetime.now(UTC)
        midnight = datetime.combine(today, time.min, UTC)
        for age in range(DAYS):
            start = midnight - timedelta(days=age)
            span = timedelta(days=1, minutes=-5) if age else today - midnight
            await self._fill_day(filling, rows // DAYS, start, span)
        await self._connection.execute(f"VACUUM ANALYZE {filling.table}")

    async def _fill_day(self, filling: Filling, rows: int, start: datetime, span: timedelta) -> None:
        table, name = filling.table, partition_name(filling.table, start.date())
        low, high = uuid7_floor(start), uuid7_floor(start + timedelta(days=1))
        await self._connection.execute(
            f"DROP TABLE IF EXISTS {name}; CREATE TABLE {name} (LIKE {table} INCLUDING ALL EXCLUDING INDEXES)"
        )
        await self._connection.execute(
            f"INSERT INTO {name} ({filling.id_column}, {filling.columns}) "
            f"SELECT {_IDS}, {filling.values} FROM generate_series(0, $1 - 1) AS n",
            rows,
            start,
            span,
            self.fleet,
            timeout=None,
        )
        # Attaching it makes its indexes.
        await self._connection.execute(
            f"ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES FROM ('{low}') TO ('{high}')", timeout=None
        )

    async def empty_small(self, tables: Sequence[str]) -> None:
        """Empty tables of the small schema."""
        await self.use("small")
        await self._connection.execute(f"TRUNCATE {', '.join(tables)}")
        await self._connection.execute(f"VACUUM ANALYZE {', '.join(tables)}")

    async def checkpoint(self) -> None:
        """Write out what is dirty, so that what is timed next pays for itself only."""
        await self._connection.execute("CHECKPOINT")

    async def size(self, table: str) -> dict[str, Any]:
        """Return what a grown table holds, and in how many bytes."""
        await self.use("grown")
        [row] = await self._connection.fetch(
            """SELECT sum(reltuples)::int8 AS rows, sum(pg_total_relation_size(oid))::int8 AS bytes FROM pg_class
            WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND relname ~ ('^' || $1 || '(_\\d{8})?$')""",
            table,
        )
        return dict(row)


@asynccontextmanager
async def twins(system: System) -> AsyncIterator[Twins]:
    """Open the connection of the twins for the block."""
    async with system.session() as connection:
        yield Twins(system, connection)


Round = Callable[[], Awaitable[Mapping[str, float]]]
"""Does something and returns the seconds and the CPU microseconds of each item."""


async def compare(pair: Twins, effort: Effort, tables: Sequence[str], measure: Round) -> dict[str, Any]:
    """Measure small and grown tables in turns, each after a round that warms it up; return the ratios of the medians.

    Of the small schema, `tables` are emptied each time of what the rounds before have left.
    """
    rounds: dict[str, list[Mapping[str, float]]] = {"small": [], "grown": []}
    for _ in range(max(3, effort.rounds)):
        await pair.empty_small(tables)
        for name, measured in rounds.items():
            await pair.use(name)
            await measure()
            await pair.checkpoint()
            measured.append(await measure())
    middle = {
        name: {key: statistics.median(one[key] for one in measured) for key in measured[0]}
        for name, measured in rounds.items()
    }
    ratios = {key: middle["grown"][key] / middle["small"][key] for key in middle["small"]}
    return {"ratios": ratios, "medians": middle, "rounds": rounds}
