"""A table with a row per event, as log tables usually are: its bulk load, its size and a search of it."""

import asyncio
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from uuid import UUID

from bench.system import System
from comms_api.database.uuid7 import uuid7_at
from comms_api.embedded_postgresql.cluster import DATABASE, ROLE
from comms_api.embedded_postgresql.home import binary

TABLE = "event_rows"
# Autovacuum would run in some rounds only, and take CPU time from the server's rounds.
_CREATE = f"""
    DROP TABLE IF EXISTS {TABLE};
    CREATE TABLE {TABLE} (id uuid PRIMARY KEY, agent_id uuid NOT NULL, module text NOT NULL, collector text NOT NULL,
        event json NOT NULL) PARTITION BY RANGE (id);
    CREATE INDEX ON {TABLE} (agent_id, id);
    CREATE TABLE {TABLE}_all PARTITION OF {TABLE} FOR VALUES FROM (MINVALUE) TO (MAXVALUE)
        WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off)"""


async def create_row_table(system: System) -> None:
    """Create the empty table."""
    async with system.session() as connection:
        await connection.execute(_CREATE)


def write_rows(file: Path, batches: Iterable[tuple[UUID, Sequence[bytes]]]) -> Path:
    """Write the rows of batches, each of an agent and its events; the ids within a batch increase."""
    with file.open("wb") as output:
        for agent, lines in batches:
            first = uuid7_at(time.time()).int
            for offset, line in enumerate(lines):
                payload = line.replace(b"\\", b"\\\\")
                output.write(f"{UUID(int=first + offset)}\t{agent}\tlogcollector\tfile\t".encode() + payload + b"\n")
    return file


async def copy_rows(system: System, file: Path) -> float:
    r"""Load a file into the emptied table by `\copy` of psql; return the seconds it took."""
    async with system.session() as connection:
        await connection.execute(f"TRUNCATE {TABLE}")
    await system.checkpoint()
    session = ("-h", str(system.cluster.socket_dir), "-p", "5432", "-U", ROLE, "-d", DATABASE)
    started = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        str(binary("psql")), "-q", *session, "-c", f"\\copy {TABLE} from '{file}'"
    )
    if await process.wait():
        raise RuntimeError("psql failed")
    return time.perf_counter() - started
