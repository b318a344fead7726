"""The users' statements."""

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from comms_api.database.schema import users
from comms_api.http.roles import Role
from comms_api.users.model import User


async def find_password(connection: AsyncConnection, name: str) -> tuple[str, Role] | None:
    """Return the hash of a user's password and the user's role, or None when there is no such user."""
    row = (await connection.execute(select(users.c.password_hash, users.c.role).where(users.c.name == name))).first()
    return (row.password_hash, row.role) if row else None


async def list_users(connection: AsyncConnection, after: str | None, limit: int) -> list[User]:
    """Return users by name, beginning behind `after`."""
    statement = select(users.c.name, users.c.role, users.c.created_at).order_by(users.c.name).limit(limit)
    if after is not None:
        statement = statement.where(users.c.name > after)
    return [User(*row) for row in await connection.execute(statement)]


async def delete_user(connection: AsyncConnection, name: str) -> bool:
    """Remove a user; return whether there was one."""
    return await connection.scalar(users.delete().where(users.c.name == name).returning(users.c.name)) is not None


async def is_empty(connection: AsyncConnection) -> bool:
    """Return whether there is no user yet."""
    return await connection.scalar(select(users.c.name).limit(1)) is None


async def insert_user(connection: AsyncConnection, name: str, password_hash: str, role: Role) -> bool:
    """Add a user; return False when there is one of that name."""
    values = {"name": name, "password_hash": password_hash, "role": role}
    statement = insert(users).values(values).on_conflict_do_nothing().returning(users.c.name)
    return await connection.scalar(statement) is not None
