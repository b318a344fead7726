"""Prepare the database before a node serves: the schema, partitions, an administrator, and the name of the node.

Advisory locks make nodes that start together do each step once. The preparation runs in a separate process, so
that the node keeps none of its memory (Alembic's, for example).
"""

import asyncio
import logging
from pathlib import Path

from comms_api.app.secret_files import administrator_password_file
from comms_api.cluster.model import NodeAddress
from comms_api.cluster.names import claim_name
from comms_api.database.address.poolers import refuse_poolers
from comms_api.database.connect import open_engine
from comms_api.database.connection import Engine
from comms_api.database.failures import requiring_database
from comms_api.database.migrate import upgrade_schema
from comms_api.database.partitions import create_partitions
from comms_api.events.reading.store import renumber_restored
from comms_api.login.external import check_sources
from comms_api.login.store import list_signing_keys
from comms_api.settings import Settings
from comms_api.tokens.secret import Secret
from comms_api.users.service import create_first_administrator, read_password
from comms_api.users.store import is_empty

PREPARATION_LOCK = 0x7072657061
RENUMBERED_AT_ONCE = 10_000

logger = logging.getLogger(__name__)


def prepare(url: str, secret: Secret, settings: Settings, address: NodeAddress) -> Path | None:
    """Create everything that is missing and claim the node's name; return the file of a newly generated password.

    Raises `ConfigurationError` when the database cannot be used, it was set up with another secret, or a live node has
    the name.
    """
    return asyncio.run(_prepare(url, secret, settings, address))


async def _prepare(url: str, secret: Secret, settings: Settings, address: NodeAddress) -> Path | None:
    engine = open_engine(url, settings)
    try:
        with requiring_database():
            await check_sources(settings)
            await refuse_poolers(engine)
            password_file = await _prepare_database(engine, settings)
            async with engine.connect() as connection:
                await list_signing_keys(connection, secret)  # a node that cannot read the keys must not take a name
            await claim_name(engine, address)
            return password_file
    finally:
        await engine.dispose()


async def _prepare_database(engine: Engine, settings: Settings) -> Path | None:
    await upgrade_schema(engine)
    await create_partitions(engine)
    await _renumber_restored(engine)
    async with engine.begin() as connection:
        await connection.take_turns(PREPARATION_LOCK)
        if not await is_empty(connection):
            return None
        path = administrator_password_file(settings)
        await create_first_administrator(connection, read_password("admin_password_file", path))
    return None if settings.admin_password_file else path


async def _renumber_restored(engine: Engine) -> None:
    """Let followers get the events of a restored dump; a restored table takes many short transactions."""
    renumbered, last = 0, RENUMBERED_AT_ONCE
    while last == RENUMBERED_AT_ONCE:
        async with engine.begin() as connection:
            await connection.take_turns(PREPARATION_LOCK)
            last = await renumber_restored(connection, RENUMBERED_AT_ONCE)
        renumbered += last
    if renumbered:
        logger.warning("the database was restored: followers get its %d batches of events from now on", renumbered)
