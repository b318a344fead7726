"""The users' statements."""

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from comms_api.database.schema import users


async def find_password_hash(connection: AsyncConnection, name: str) -> str | None:
    """Return the hash of a user's password, or None when there is no such user."""
    stored: str | None = await connection.scalar(select(users.c.password_hash).where(users.c.name == name))
    return stored


async def is_empty(connection: AsyncConnection) -> bool:
    """Return whether there is no user yet."""
    return await connection.scalar(select(users.c.name).limit(1)) is None


async def insert_user(connection: AsyncConnection, name: str, password_hash: str, role: str) -> None:
    """Add a user, unless there is one of that name."""
    values = {"name": name, "password_hash": password_hash, "role": role}
    await connection.execute(insert(users).values(values).on_conflict_do_nothing())
