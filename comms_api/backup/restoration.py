"""Restore a backup into an empty server, or into one that is to be replaced.

The database is emptied and filled in one transaction, so a restore that fails changes nothing. The files are written
under other names before, and get their names after the commit.
"""

from collections.abc import Iterator
from typing import NamedTuple

from sqlalchemy import text

from comms_api.backup.archive import SECTIONS, Archive, Manifest, Origin, Watch
from comms_api.backup.dump import quote_name
from comms_api.backup.files import FilePlan, plan_files
from comms_api.backup.programs import access_to, find_programs, write_input
from comms_api.database.connect import database
from comms_api.database.connection import Connection
from comms_api.database.failures import requiring_database
from comms_api.database.migrate import MIGRATIONS_LOCK
from comms_api.database.revisions import newest_revision
from comms_api.errors import CommsError, ConfigurationError
from comms_api.private_files import replacing
from comms_api.settings import Settings

PSQL_OPTIONS = ("--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1")

# Tables and functions of extensions may be in the same schema; they stay.
_OURS = """
    {0}namespace = current_schema()::regnamespace AND NOT EXISTS (
        SELECT FROM pg_depend WHERE classid = 'pg_{1}'::regclass AND objid = pg_{1}.oid AND deptype = 'e')"""
_TABLES = f"FROM pg_class WHERE relkind IN ('r', 'p') AND {_OURS.format('rel', 'class')}"

_FIND_TARGET = text(f"""
    SELECT current_schema() AS schema, CAST(system_identifier AS text) AS cluster,
        CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS text) AS bigint) AS next_transaction,
        EXISTS (SELECT {_TABLES}) AS has_tables, to_regclass('alembic_version') IS NOT NULL AS is_ours,
        (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
            AND application_name = 'comms-api' AND pid <> pg_backend_pid()) AS sessions
    FROM pg_control_system()""")

_BEGIN = f"""
BEGIN;
SET LOCAL lock_timeout = '10s';
SELECT pg_advisory_xact_lock({MIGRATIONS_LOCK});
DO $$
DECLARE command text;
BEGIN
    FOR command IN
        SELECT format('DROP TABLE IF EXISTS %s CASCADE', oid::regclass) {_TABLES} AND NOT relispartition
        UNION ALL SELECT format('DROP FUNCTION IF EXISTS %s CASCADE', oid::regprocedure)
            FROM pg_proc WHERE {_OURS.format("pro", "proc")}
    LOOP
        EXECUTE command;
    END LOOP;
END $$;
"""

# Batches without a transaction are before every position of followers, and visible to them at once.
_BEGIN_FORGETTING = """
CREATE FUNCTION {schema}.forget_transaction() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN NEW.xact := 0; RETURN NEW; END';
CREATE TRIGGER forget_transaction BEFORE INSERT ON {schema}.event_batches
    FOR EACH ROW EXECUTE FUNCTION {schema}.forget_transaction();
"""
_END_FORGETTING = "DROP FUNCTION {schema}.forget_transaction() CASCADE;\n"


class Restored(NamedTuple):
    """The outcome of a restore."""

    files: FilePlan
    keeps_positions: bool
    """Whether followers of the events may continue from their positions."""


async def restore(settings: Settings, archive: Archive, *, is_replacing: bool, watch: Watch) -> Restored:
    """Restore the database and the files of a verified archive into a node; raises `CommsError`."""
    manifest, origin = archive.manifest, archive.manifest.origin
    _refuse_newer(manifest)
    files = plan_files(settings, archive.files())
    if files.replaced and not is_replacing:
        raise _not_empty(", ".join(map(str, files.replaced)) + " differs from the backup")
    with requiring_database():
        async with database(settings) as engine:
            async with engine.connect() as connection:
                target = await _find_target(connection, origin, is_replacing=is_replacing)
            programs = find_programs(max(target.server_major, manifest.programs_major))
            keeps_positions = origin.cluster == target.cluster and origin.next_transaction <= target.next_transaction
            script = watch(_script(archive, keeps_positions=keeps_positions), archive.sql_bytes)
            access = access_to(engine.sqlalchemy.url)
            try:
                with replacing(files.new):  # blocks the event loop, so that a signal ends it at once
                    write_input(programs.folder / "psql", access, script, *PSQL_OPTIONS)
            except OSError as error:
                raise CommsError(f"cannot write the files of the backup: {error}") from None
    return Restored(files, keeps_positions)


def _refuse_newer(manifest: Manifest) -> None:
    if manifest.origin.revision > newest_revision():
        raise CommsError(
            f"the backup is of comms-api {manifest.release} and its schema has revision {manifest.origin.revision}, but"
            f" this release knows {newest_revision()}: restore it with comms-api {manifest.release} or newer"
        )


def _not_empty(reason: str) -> CommsError:
    return CommsError(f"{reason}: nothing was changed; `comms-api restore --replace` replaces the database and files")


async def _find_target(connection: Connection, origin: Origin, *, is_replacing: bool) -> Origin:
    """Return the database to fill; raises `CommsError` if it must not or cannot be filled."""
    [row] = await connection.execute(_FIND_TARGET)
    target = Origin("", row.schema, connection.driver.get_server_version().major, row.cluster, row.next_transaction)
    if row.has_tables and not row.is_ours:
        raise ConfigurationError("database_url: the database has tables of another program: create an empty one")
    if row.sessions:
        raise CommsError(f"{row.sessions} session(s) of nodes use the database: stop all nodes, then try again")
    if row.has_tables and not is_replacing:
        raise _not_empty("the database is not empty")
    if target.server_major < origin.server_major:
        raise ConfigurationError(
            f"database_url: the server is PostgreSQL {target.server_major} and the backup is of PostgreSQL"
            f" {origin.server_major}: use PostgreSQL {origin.server_major} or newer"
        )
    if target.schema != origin.schema:
        raise ConfigurationError(
            f"database_url: the current schema is {target.schema}, but the backup has the schema {origin.schema}: set"
            " the search_path of the role"
        )
    return target


def _script(archive: Archive, *, keeps_positions: bool) -> Iterator[bytes]:
    """Yield the SQL of the whole restore. psql rolls back if the input ends before the COMMIT."""
    schema = quote_name(archive.manifest.origin.schema)
    yield _BEGIN.encode()
    for section in SECTIONS:
        is_forgetting = section == "data" and not keeps_positions
        if is_forgetting:
            yield _BEGIN_FORGETTING.format(schema=schema).encode()
        yield from archive.sql(section)
        if is_forgetting:
            yield _END_FORGETTING.format(schema=schema).encode()
    yield b"COMMIT;\n"
