"""SQL statements about signing keys, and about orders to rotate a key."""

from collections.abc import Collection
from uuid import UUID

from sqlalchemy import func, select

from comms_api.database.connection import Connection
from comms_api.database.schema import commands, is_one_of, orders, signing_keys
from comms_api.protocol import ROTATE_KEY_ACTION
from comms_api.tokens.keyring import SigningKey
from comms_api.tokens.secret import Secret


async def list_signing_keys(connection: Connection, secret: Secret) -> list[SigningKey]:
    """Return all keys, oldest first; raises `ConfigurationError` if `secret` cannot decrypt them."""
    columns = signing_keys.c
    statement = select(
        columns.kid, columns.algorithm, columns.private_key, func.extract("epoch", columns.created_at)
    ).order_by(columns.created_at, columns.kid)
    return [
        SigningKey(kid, algorithm, secret.decrypt(private_key), float(created_at))
        for kid, algorithm, private_key, created_at in await connection.execute(statement)
    ]


async def insert_signing_key(connection: Connection, secret: Secret, key: SigningKey) -> None:
    """Store a key, encrypted."""
    values = {"kid": key.kid, "algorithm": key.algorithm, "private_key": secret.encrypt(key.private_key)}
    await connection.execute(signing_keys.insert().values(values))


async def reseal_signing_key(connection: Connection, secret: Secret, key: SigningKey) -> None:
    """Encrypt a stored key again with the current secret."""
    values = {"private_key": secret.encrypt(key.private_key)}
    await connection.execute(signing_keys.update().where(signing_keys.c.kid == key.kid).values(values))


async def delete_signing_keys(connection: Connection, kids: Collection[str]) -> None:
    """Delete keys that signed no valid token."""
    await connection.execute(signing_keys.delete().where(is_one_of(signing_keys.c.kid, kids)))


async def has_rotation_order(connection: Connection, agent_id: UUID, order_id: UUID) -> bool:
    """Return whether an agent has an open order with this id to rotate its key."""
    statement = (
        select(orders.c.order_id)
        .join(commands, commands.c.request_id == orders.c.request_id)
        .where(
            orders.c.order_id == order_id,
            orders.c.agent_id == agent_id,
            commands.c.action_name == ROTATE_KEY_ACTION,
        )
    )
    return await connection.scalar(statement) is not None
