"""The statements of users' devices: browsers and programs that have logged in before, known by a random token."""

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from comms_api.database.schema import seconds_interval, user_devices

DEVICE_SECONDS = 90 * 86_400.0
"""How long a device that does not log in is remembered."""

DEVICES_MAXIMUM = 32
"""How many devices of a user are remembered that have come back, and as many that have not yet."""

_EXPIRES_AT = func.now() + seconds_interval(DEVICE_SECONDS)


async def insert_device(connection: AsyncConnection, name: str, token_hash: bytes, network: str) -> None:
    """Remember a device of a user, and the network that it has logged in from."""
    values = {"token_hash": token_hash, "user_name": name, "network": network, "expires_at": _EXPIRES_AT}
    await connection.execute(user_devices.insert().values(values))


async def renew_device(connection: AsyncConnection, token_hash: bytes, network: str) -> None:
    """Note that a device has come back."""
    values = {"network": network, "has_returned": True, "seen_at": func.now(), "expires_at": _EXPIRES_AT}
    await connection.execute(user_devices.update().where(user_devices.c.token_hash == token_hash).values(values))


async def trim_devices(connection: AsyncConnection, name: str) -> None:
    """Forget a user's devices beyond the maximum, those that were not seen for longest.

    Programs that keep no token make a new device with each login, and push none out that has come back.
    """
    columns = user_devices.c
    newest_first = func.row_number().over(partition_by=columns.has_returned, order_by=columns.seen_at.desc())
    ranked = select(columns.token_hash, newest_first.label("rank")).where(columns.user_name == name).subquery()
    excess = select(ranked.c.token_hash).where(ranked.c.rank > DEVICES_MAXIMUM)
    # Logins of one user that trim at the same time do not wait for one another.
    free = select(columns.token_hash).where(columns.token_hash.in_(excess)).with_for_update(skip_locked=True)
    await connection.execute(user_devices.delete().where(columns.token_hash.in_(free)))


async def delete_devices(connection: AsyncConnection, name: str) -> None:
    """Forget every device of a user."""
    await connection.execute(user_devices.delete().where(user_devices.c.user_name == name))


async def forget_devices(connection: AsyncConnection) -> None:
    """Delete the devices that have expired."""
    await connection.execute(user_devices.delete().where(user_devices.c.expires_at <= func.now()))
