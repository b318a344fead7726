"""Back up a running server: its database at one moment, with its secret, certificates and settings."""

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import text

from comms_api.backup.archive import (
    FORMAT,
    SECTIONS,
    SETTINGS,
    Manifest,
    Origin,
    Watch,
    file_name,
    write_archive,
)
from comms_api.backup.files import describe_settings, read_files
from comms_api.backup.programs import Access, Programs, access_to, find_programs, read_output
from comms_api.database.connect import database
from comms_api.database.connection import Connection
from comms_api.database.failures import requiring_database
from comms_api.errors import ConfigurationError
from comms_api.settings import Settings

TRANSIENT = "nodes"
"""A table without which a node starts: its rows are of live processes."""

OPTIONS = ("--no-owner", "--no-privileges", "--no-tablespaces", "--no-unlogged-table-data", "--lock-wait-timeout=60s")

TRANSACTION_TIMEOUT_SINCE = 17
"""The major version of PostgreSQL that has the setting."""

# Older servers do not know `transaction_timeout`. The schema exists in every database; its owner may be another role.
_NOT_RESTORED = re.compile(
    rb"^(?:SET transaction_timeout = 0|CREATE SCHEMA [^\n]*|COMMENT ON SCHEMA [^\n]*);\n", re.MULTILINE
)

_LIST_TABLES = text("""
    SELECT CAST(oid::regclass AS text) FROM pg_class
    WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition""")

_FIND_ORIGIN = text("""
    SELECT version_num AS revision, current_schema() AS schema, CAST(system_identifier AS text) AS cluster,
        CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS text) AS bigint) AS next_transaction,
        pg_export_snapshot() AS snapshot
    FROM alembic_version, pg_control_system()""")


class Snapshot(NamedTuple):
    """A moment of the database, by the name under which pg_dump reads it."""

    name: str
    origin: Origin


async def back_up(settings: Settings, path: Path, watch: Watch) -> Manifest:
    """Write a backup of a node to a new file, and verify it; raises `CommsError`."""
    contents = {file_name(name): content for name, content in read_files(settings).items()}
    contents[SETTINGS] = describe_settings(settings)
    with requiring_database():
        async with database(settings) as engine, engine.connect() as connection, _open_snapshot(connection) as snapshot:
            programs, access = find_programs(snapshot.origin.server_major), access_to(engine.sqlalchemy.url)
            sections = {section: _dump(programs, access, snapshot, section) for section in SECTIONS}
            release = metadata.version("comms-api")
            manifest = Manifest(FORMAT, release, datetime.now(UTC), programs.major, snapshot.origin, {})
            # This blocks the event loop, so a signal ends it at once; a thread would continue.
            return write_archive(path, manifest, sections, contents, watch)


@asynccontextmanager
async def _open_snapshot(connection: Connection) -> AsyncIterator[Snapshot]:
    """Hold one moment of the database, and every table of that moment, during the block."""
    tables = await connection.scalars(_LIST_TABLES)
    if "alembic_version" not in tables:
        raise ConfigurationError("database_url: the database is empty: there is nothing to back up")
    server_major = connection.driver.get_server_version().major
    async with connection.transaction():
        await connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))
        await connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        if server_major >= TRANSACTION_TIMEOUT_SINCE:
            await connection.execute(text("SET LOCAL transaction_timeout = 0"))
        # A partition that is dropped during the backup would make pg_dump fail.
        await connection.execute(text(f"LOCK TABLE {', '.join(tables)} IN ACCESS SHARE MODE"))
        [row] = await connection.execute(_FIND_ORIGIN)
        yield Snapshot(row.snapshot, Origin(row.revision, row.schema, server_major, row.cluster, row.next_transaction))


def _dump(programs: Programs, access: Access, snapshot: Snapshot, section: str) -> Iterator[bytes]:
    """Yield the SQL of a part of the database."""
    schema = quote_name(snapshot.origin.schema)
    options = (f"--schema={schema}", f"--exclude-table-data={schema}.{TRANSIENT}", f"--snapshot={snapshot.name}")
    pieces = read_output(programs.folder / "pg_dump", access, *OPTIONS, *options, f"--section={section}")
    yield _NOT_RESTORED.sub(b"", next(pieces, b""))
    yield from pieces


def quote_name(name: str) -> str:
    """Return a name of a database object as SQL."""
    return '"' + name.replace('"', '""') + '"'
