"""Move the schema to the newest revision or another one, once, even if many nodes start together.

While a cluster is upgraded node by node, a node may start on a schema that is newer than its code. Such a node runs
normally, since revisions only add to the schema until every node is upgraded.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, event, text
from sqlalchemy.exc import DBAPIError

from comms_api.database.connection import Engine
from comms_api.database.failures import describe_outage, is_outage
from comms_api.database.revisions import migrations_folder
from comms_api.errors import ConfigurationError

logger = logging.getLogger(__name__)

MIGRATIONS_LOCK = 0x636F6D6D73  # "comms" in ASCII: advisory locks are numbers
LOCK_TIMEOUT = "5s"
STATEMENT_TIMEOUT = "10min"


def alembic_config(connection: Connection) -> Config:
    """Return an Alembic configuration that works on `connection` and needs no file."""
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def guard_migration(connection: Connection) -> None:
    """Run one migration at a time, and never wait forever behind a long transaction.

    The wait for the advisory lock, which another migrating node holds, is unlimited; the transaction's end releases it.
    """
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATIONS_LOCK})
    connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))
    connection.execute(text(f"SET LOCAL statement_timeout = '{STATEMENT_TIMEOUT}'"))


async def upgrade_schema(engine: Engine) -> None:
    """Run every missing revision in one transaction; leave a newer schema unchanged.

    Raises `ConfigurationError` for a database with other contents.
    """
    await _run(engine, _upgrade)


async def move_schema(engine: Engine, revision: str) -> None:
    """Upgrade or downgrade the schema to a revision, `head` or `base`, in one transaction.

    Raises `ConfigurationError` for an unknown revision, and for a database with other contents.
    """
    await _run(engine, lambda connection: _move(connection, revision))


async def preview_move(engine: Engine, revision: str) -> list[str]:
    """Return the statements of `move_schema`; they run, but are rolled back."""
    statements: list[str] = []

    def preview(connection: Connection) -> None:
        with connection.begin_nested() as attempt:
            event.listen(connection, "before_cursor_execute", record)
            _move(connection, revision)
            event.remove(connection, "before_cursor_execute", record)
            attempt.rollback()

    def record(_connection: Connection, _cursor: Any, statement: str, parameters: Any, *_: object) -> None:
        if not parameters:  # a statement with parameters only reads
            statements.append(statement.strip())

    await _run(engine, preview)
    return statements


async def list_missing(engine: Engine) -> Sequence[str]:
    """Return the revisions that the schema lacks, oldest first, each with its title."""
    missing: list[str] = []

    def read(connection: Connection) -> None:
        scripts = ScriptDirectory.from_config(alembic_config(connection))
        current = MigrationContext.configure(connection).get_current_revision()
        newer = scripts.iterate_revisions("head", current or "base")
        missing.extend(f"{script.revision} {script.doc}" for script in newer)

    await _run(engine, read)
    return missing[::-1]


async def _run(engine: Engine, work: Callable[[Connection], None]) -> None:
    try:
        async with engine.sqlalchemy.begin() as connection:
            await connection.run_sync(work)
    except CommandError as error:
        raise ConfigurationError(f"database_url: the schema cannot be upgraded: {error}") from error
    except DBAPIError as error:
        if is_outage(error):
            raise
        raise ConfigurationError(
            f"database_url: the schema cannot be created in this database: {describe_outage(error)}"
        ) from error


def _move(connection: Connection, revision: str) -> None:
    guard_migration(connection)
    config = alembic_config(connection)
    current = MigrationContext.configure(connection).get_current_revision() or ""
    is_older = revision == "base" or (revision != "head" and revision < current)  # revisions are numbered
    (command.downgrade if is_older else command.upgrade)(config, revision)


def _upgrade(connection: Connection) -> None:
    guard_migration(connection)  # the node that is migrating may have a newer release
    config = alembic_config(connection)
    revision = MigrationContext.configure(connection).get_current_revision()
    newest = ScriptDirectory.from_config(config).get_current_head()
    if revision is not None and newest is not None and revision > newest:  # revisions are numbered
        logger.warning("the schema, revision %s, is of a newer release than this one, revision %s", revision, newest)
        return
    command.upgrade(config, "head")
    if revision != newest:
        logger.info("the schema was upgraded to revision %s (it was at %s)", newest, revision or "none")


def replace_in_function(connection: Connection, name: str, *pairs: tuple[str, str]) -> None:
    """Replace texts in the definition of a database function; raises `RuntimeError` if it lacks one of them."""
    definition = connection.scalar(text("SELECT pg_get_functiondef(CAST(:name AS regproc))"), {"name": name})
    for old, new in pairs:
        if old not in definition:
            raise RuntimeError(f"{name}() is not as the revision before left it")
        definition = definition.replace(old, new)
    connection.exec_driver_sql(definition)
