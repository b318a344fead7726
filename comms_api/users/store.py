"""The users' statements."""

from collections.abc import Mapping

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from comms_api.database.schema import refresh_tokens, revocations, seconds_interval, users
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


async def update_user(connection: AsyncConnection, name: str, changes: Mapping[str, str]) -> bool:
    """Change a user; return whether there is one."""
    statement = users.update().where(users.c.name == name).values(changes).returning(users.c.name)
    return await connection.scalar(statement) is not None


async def insert_refresh_token(connection: AsyncConnection, name: str, token_hash: bytes, seconds: float) -> None:
    """Store the hash of a refresh token."""
    expires_at = func.now() + seconds_interval(seconds)
    values = {"user_name": name, "token_hash": token_hash, "expires_at": expires_at}
    await connection.execute(insert(refresh_tokens).values(values))


async def take_refresh_token(connection: AsyncConnection, token_hash: bytes) -> tuple[str, Role] | None:
    """Use a refresh token up; return whose it is and the user's role, or None when it is not good."""
    taken = (
        refresh_tokens.delete()
        .where(refresh_tokens.c.token_hash == token_hash)
        .returning(refresh_tokens.c.user_name, refresh_tokens.c.expires_at)
        .cte("taken")
    )
    statement = select(users.c.name, users.c.role).join(taken, taken.c.user_name == users.c.name)
    row = (await connection.execute(statement.where(taken.c.expires_at > func.now()))).first()
    return (row.name, row.role) if row else None


async def was_revoked_since(connection: AsyncConnection, name: str, seconds: float) -> bool:
    """Return whether a user's tokens have been ended since a moment (seconds since 1970)."""
    statement = select(revocations.c.subject).where(
        revocations.c.subject == name, func.extract("epoch", revocations.c.revoked_at) >= seconds
    )
    return await connection.scalar(statement) is not None


async def delete_refresh_tokens(connection: AsyncConnection, name: str) -> None:
    """End the refresh tokens of a user."""
    await connection.execute(refresh_tokens.delete().where(refresh_tokens.c.user_name == name))


async def forget_refresh_tokens(connection: AsyncConnection) -> None:
    """Delete the refresh tokens that are over."""
    await connection.execute(refresh_tokens.delete().where(refresh_tokens.c.expires_at <= func.now()))
