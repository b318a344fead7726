"""What a database must have before a node serves: the schema, a signing key, an administrator, partitions.

Ten nodes that start together do each of these once: they take turns at one advisory lock.
"""

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from comms_api.database.migrate import upgrade_schema
from comms_api.database.partitions import create_partitions
from comms_api.login.keys import SigningKeys
from comms_api.settings import Settings
from comms_api.tokens.keyring import Keyring
from comms_api.tokens.secret import Secret
from comms_api.users.service import create_first_administrator

PREPARATION_LOCK = 0x7072657061


class Prepared(msgspec.Struct, frozen=True):
    """What a node learns from the database; the password only if it was made up just now."""

    keyring: Keyring
    administrator_password: str | None


async def prepare_database(engine: AsyncEngine, secret: Secret, settings: Settings) -> Prepared:
    """Create what is missing, in transactions of their own; idempotent."""
    async with engine.begin() as connection:
        await upgrade_schema(connection)
    await create_partitions(engine)
    async with engine.begin() as connection:
        await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": PREPARATION_LOCK})
        keyring = await SigningKeys(engine, secret, settings).load(connection)
        password = await create_first_administrator(connection, settings.admin_password_file)
    return Prepared(keyring, password)
