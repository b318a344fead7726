"""SQL statements about users' devices: clients that have logged in before, identified by a random token."""

from sqlalchemy import func, select

from comms_api.database.connection import Connection
from comms_api.database.schema import seconds_interval, user_devices

DEVICE_SECONDS = 90 * 86_400.0
"""A device is remembered for this long after its last login."""

DEVICES_MAXIMUM = 32
"""The maximum number of a user's devices that have logged in again, and of devices that have not."""

_EXPIRES_AT = func.now() + seconds_interval(DEVICE_SECONDS)


async def insert_device(connection: Connection, name: str, token_hash: bytes, network: str) -> None:
    """Store a device of a user, and the network that it logged in from."""
    values = {"token_hash": token_hash, "user_name": name, "network": network, "expires_at": _EXPIRES_AT}
    await connection.execute(user_devices.insert().values(values))


async def renew_device(connection: Connection, token_hash: bytes, network: str) -> None:
    """Record that a device has logged in again."""
    values = {"network": network, "has_returned": True, "seen_at": func.now(), "expires_at": _EXPIRES_AT}
    await connection.execute(user_devices.update().where(user_devices.c.token_hash == token_hash).values(values))


async def trim_devices(connection: Connection, name: str) -> None:
    """Delete a user's devices beyond the maximum, starting with the longest unused.

    Programs that keep no token create a device with each login, but never displace a device that has logged in again.
    """
    columns = user_devices.c
    newest_first = func.row_number().over(partition_by=columns.has_returned, order_by=columns.seen_at.desc())
    ranked = select(columns.token_hash, newest_first.label("rank")).where(columns.user_name == name).subquery()
    excess = select(ranked.c.token_hash).where(ranked.c.rank > DEVICES_MAXIMUM)
    # Simultaneous logins of one user do not wait for one another here.
    free = select(columns.token_hash).where(columns.token_hash.in_(excess)).with_for_update(skip_locked=True)
    await connection.execute(user_devices.delete().where(columns.token_hash.in_(free)))


async def delete_devices(connection: Connection, name: str) -> None:
    """Delete every device of a user."""
    await connection.execute(user_devices.delete().where(user_devices.c.user_name == name))


async def forget_devices(connection: Connection) -> None:
    """Delete the devices that have expired."""
    await connection.execute(user_devices.delete().where(user_devices.c.expires_at <= func.now()))
