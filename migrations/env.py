"""Run the migrations on the connection that `comms-api serve` passes, or on a new one."""

import asyncio

import msgspec
from alembic import context
from alembic.util import CommandError
from sqlalchemy import Connection

from comms_api.database.connect import database
from comms_api.database.failures import describe_outage, is_outage
from comms_api.database.migrate import guard_migration
from comms_api.database.partitions import is_partition
from comms_api.database.schema import metadata
from comms_api.errors import CommsError
from comms_api.settings import current_settings


def include_name(name: str | None, kind: str, _parents: dict[str, str | None]) -> bool:
    """Leave out the partitions, because a duty creates and drops them, not a revision."""
    return not (kind == "table" and name is not None and is_partition(name))


def migrate(connection: Connection) -> None:
    """Run the requested migrations in one transaction."""
    context.configure(
        connection=connection,
        target_metadata=metadata,
        include_name=include_name,
        compare_server_default=False,
        transactional_ddl=True,
    )
    with context.begin_transaction():
        guard_migration(connection)
        context.run_migrations()


async def migrate_with_own_connection() -> None:
    """Run the migrations on the server's database; raises `CommandError`, which Alembic shows in one line."""
    try:
        async with database(current_settings(), msgspec.json.decode) as engine, engine.sqlalchemy.begin() as connection:
            await connection.run_sync(migrate)
    except CommsError as error:
        raise CommandError(error.detail) from None
    except Exception as error:
        if is_outage(error):
            raise CommandError(f"the database cannot be used: {describe_outage(error)}") from None
        raise


if connection := context.config.attributes.get("connection"):
    migrate(connection)
else:
    asyncio.run(migrate_with_own_connection())
