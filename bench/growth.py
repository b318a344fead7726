"""Measure a system with small and with grown tables, in two schemas of one database that the server uses in turn.

To switch, the schemas are renamed. This takes a millisecond, and PostgreSQL plans every statement again.
Since small and grown tables are measured alternately, other work on the machine slows down both.
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
"""The number of agents that send requests, in the small and in the grown fleet."""

FLEET = 100_000
DAYS = 10
"""The rows of grown tables are spread over the partitions of this many days, including today."""

_COPY = "; ".join(
    f"INSERT INTO public.{table} SELECT * FROM grown.{table} ON CONFLICT DO NOTHING"
    for table in ("users", "signing_keys", "groups", "agents", "group_members")
)
_IDS = "uuidv7($2::timestamptz - clock_timestamp() + (n::float8 / $1::int) * $3::interval)"


class Filling(msgspec.Struct, frozen=True):
    """The SQL that fills a partitioned table: `values` computes a row, without its id, from its number and the agents.

    The row's number is `n`; the agents' ids are the array `$4`.
    """

    table: str
    id_column: str
    columns: str
    values: str


class SchemaPair:
    """The two schemas, `small` and `grown`; the server uses the one that is renamed to `public`."""

    def __init__(self, system: System, connection: asyncpg.Connection) -> None:
        self._system = system
        self._connection = connection
        self._absent = "grown"
        self.fleet: list[UUID] = []

    async def make(self, group: str, fleet: int) -> list[UUID]:
        """Create both schemas; return the acting agents, a group in both, which are spread over the grown fleet."""
        await self._connection.execute("ALTER SYSTEM SET autovacuum = off")  # it would run in some rounds only
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
        """Let the server use the small or the grown tables."""
        if name == self._absent:
            other = "grown" if name == "small" else "small"
            await self._connection.execute(
                f"ALTER SCHEMA public RENAME TO {other}; ALTER SCHEMA {name} RENAME TO public"
            )
            self._absent = other

    async def fill(self, filling: Filling, rows: int) -> None:
        """Fill a grown table with this many rows: create and fill partitions, then index and vacuum them."""
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
        # Attaching the partition creates its indexes.
        await self._connection.execute(
            f"ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES FROM ('{low}') TO ('{high}')", timeout=None
        )

    async def empty_small(self, tables: Sequence[str]) -> None:
        """Empty tables of the small schema."""
        await self.use("small")
        await self._connection.execute(f"TRUNCATE {', '.join(tables)}")
        await self._connection.execute(f"VACUUM ANALYZE {', '.join(tables)}")

    async def checkpoint(self) -> None:
        """Write dirty pages to disk, so that the next measurement does not pay for earlier ones."""
        await self._connection.execute("CHECKPOINT")

    async def size(self, table: str) -> dict[str, Any]:
        """Return the number of rows and bytes of a grown table."""
        await self.use("grown")
        [row] = await self._connection.fetch(
            """SELECT sum(reltuples)::int8 AS rows, sum(pg_total_relation_size(oid))::int8 AS bytes FROM pg_class
            WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND relname ~ ('^' || $1 || '(_\\d{8})?$')""",
            table,
        )
        return dict(row)


@asynccontextmanager
async def schema_pair(system: System) -> AsyncIterator[SchemaPair]:
    """Open the schemas' connection for the block."""
    async with system.session() as connection:
        yield SchemaPair(system, connection)


Round = Callable[[], Awaitable[Mapping[str, float]]]
"""Does some work, and returns the time and the CPU microseconds per item."""


async def compare(pair: SchemaPair, effort: Effort, tables: Sequence[str], measure: Round) -> dict[str, Any]:
    """Measure small and grown tables in turn, each after a warm-up round; return the ratios of the medians.

    `tables` of the small schema are emptied before each round.
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
        name: {key: statistics.median(each[key] for each in measured) for key in measured[0]}
        for name, measured in rounds.items()
    }
    ratios = {key: middle["grown"][key] / middle["small"][key] for key in middle["small"]}
    return {"ratios": ratios, "medians": middle, "rounds": rounds}
