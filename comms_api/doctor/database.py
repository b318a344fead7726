"""Check the database: its version, settings, schema and clock, and whether this node's secret belongs to it."""

from collections.abc import AsyncIterator, Iterator

import msgspec
from sqlalchemy import text

from comms_api.app.secret_files import read_secret
from comms_api.cluster.model import SKEW_SECONDS_MAXIMUM
from comms_api.database.address.poolers import refuse_poolers
from comms_api.database.connection import Connection, Engine
from comms_api.database.revisions import find_revision, newest_revision
from comms_api.database.uuid7 import DatabaseClock
from comms_api.doctor.model import Finding
from comms_api.errors import ConfigurationError
from comms_api.login.store import list_signing_keys
from comms_api.settings import Settings

OLDEST_VERSION, NEWEST_VERSION = 15, 18

MEND_CLOCK = "synchronise the clock of the machine: timedatectl set-ntp true"


class Rule(msgspec.Struct, frozen=True):
    """The values that a setting of PostgreSQL may have, the best first, and the danger of others."""

    name: str
    values: tuple[str, ...]
    danger: str


RULES = (
    Rule("fsync", ("on",), "a power failure can destroy the database"),
    Rule("full_page_writes", ("on",), "a power failure can destroy the database"),
    Rule("synchronous_commit", ("on", "remote_apply", "remote_write", "local"), "acknowledged events can be lost"),
    Rule("autovacuum", ("on",), "tables whose rows change constantly grow without limit"),
    Rule("default_transaction_isolation", ("read committed",), "concurrent transactions fail"),
)

_SETTINGS = text("SELECT name, setting FROM pg_settings WHERE name = ANY(:names)")
_VERSION = text("SELECT CAST(current_setting('server_version_num') AS int)")
_ENCODING = text("SELECT pg_encoding_to_char(encoding) FROM pg_database WHERE datname = current_database()")
_HAS_SCHEMA = text("SELECT to_regclass('alembic_version') IS NOT NULL")
_CONNECTIONS = text("""
    SELECT least(
        CAST(current_setting('max_connections') AS int)
            - CAST(current_setting('superuser_reserved_connections') AS int),
        CASE WHEN datconnlimit >= 0 THEN datconnlimit END,
        (SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user AND rolconnlimit >= 0))
    FROM pg_database WHERE datname = current_database()""")


async def examine_database(engine: Engine, settings: Settings) -> AsyncIterator[Finding]:
    """Check the server and the schema; the last finding is an error if the schema is missing."""
    try:
        await refuse_poolers(engine)
    except ConfigurationError as error:
        yield Finding("database", "direct connection", "error", str(error), "correct database_url")
        return
    async with engine.connect() as connection:
        yield _examine_version(await connection.scalar(_VERSION))
        rows = await connection.execute(_SETTINGS, {"names": [rule.name for rule in RULES]})
        for finding in _examine_settings({row.name: row.setting for row in rows}):
            yield finding
        yield _examine_encoding(await connection.scalar(_ENCODING))
        clock = DatabaseClock()
        await clock.synchronise(connection)
        problem = "certificates are checked, and log lines are dated, by a wrong clock"
        yield examine_clock("this machine", clock.skew_seconds, problem)
        revision = await find_revision(connection) if await connection.scalar(_HAS_SCHEMA) else None
        if revision is not None:
            yield await _examine_secret(connection, settings)
        yield _examine_schema(revision, newest_revision())


def _examine_version(number: int) -> Finding:
    version = number // 10_000
    subject = f"PostgreSQL {version}"
    if version < OLDEST_VERSION:
        problem = f"versions before {OLDEST_VERSION} are not supported"
        return Finding("database", subject, "error", problem, f"upgrade PostgreSQL to {NEWEST_VERSION}")
    if version > NEWEST_VERSION:
        problem = f"versions after {NEWEST_VERSION} have not been tested with this release"
        return Finding("database", subject, "warning", problem, "upgrade comms-api")
    return Finding("database", subject)


def _examine_settings(values: dict[str, str]) -> Iterator[Finding]:
    for rule in RULES:
        subject = f"{rule.name} = {values[rule.name]}"
        if values[rule.name] in rule.values:
            yield Finding("database", subject)
        else:
            remedy = f"ALTER SYSTEM SET {rule.name} = '{rule.values[0]}'; SELECT pg_reload_conf();"
            yield Finding("database", subject, "error", rule.danger, remedy)


def _examine_encoding(encoding: str) -> Finding:
    if encoding == "UTF8":
        return Finding("database", "encoding UTF8")
    remedy = "create the database again: CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
    return Finding("database", f"encoding {encoding}", "error", "some texts of agents cannot be stored", remedy)


def examine_clock(machine: str, skew_seconds: float, problem: str) -> Finding:
    """Compare a machine's clock with the database's."""
    subject = f"{machine} against the database: {skew_seconds:+.1f} s"
    if abs(skew_seconds) <= SKEW_SECONDS_MAXIMUM:
        return Finding("clock", subject)
    return Finding("clock", subject, "warning", problem, MEND_CLOCK)


async def _examine_secret(connection: Connection, settings: Settings) -> Finding:
    subject = str(settings.secret_path)
    try:
        await list_signing_keys(connection, read_secret(settings))
    except ConfigurationError as error:
        remedy = f"copy the file of another node to {subject}, with mode 600"
        return Finding("secret", subject, "error", str(error), remedy)
    return Finding("secret", f"{subject} decrypts the signing keys")


def _examine_schema(revision: str | None, newest: str) -> Finding:
    subject = f"revision {revision or 'none'}"
    if revision is None:
        return Finding(
            "schema", subject, "error", "the database has no schema", "start a node, or run comms-api migrate"
        )
    if revision < newest:  # revisions are numbered
        return Finding("schema", subject, "error", f"this release needs revision {newest}", "comms-api migrate")
    if revision > newest:
        problem = f"the schema is of a newer release; this one knows revision {newest}"
        return Finding("schema", subject, "warning", problem, "upgrade comms-api on this machine")
    return Finding("schema", subject)


async def examine_connections(engine: Engine, processes: int, settings: Settings) -> Finding:
    """Check whether the processes of all nodes together get their connections."""
    async with engine.connect() as connection:
        available = await connection.scalar(_CONNECTIONS)
    needed = processes * settings.database_pool_size
    subject = f"{needed} connections of {processes} process(es), {available} available"
    if needed <= available:
        return Finding("database", subject)
    problem = "requests wait or fail when the nodes are busy"
    remedy = (
        f"let PostgreSQL accept {needed} connections (max_connections, CONNECTION LIMIT), or lower database_pool_size"
    )
    return Finding("database", subject, "error", problem, remedy)
