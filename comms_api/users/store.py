"""SQL statements about users and their refresh tokens."""

from collections.abc import Mapping
from typing import NamedTuple
from uuid import UUID

import msgspec
from sqlalchemy import case, exists, func, literal, or_, select, true
from sqlalchemy.dialects.postgresql import insert

from comms_api.database.connection import Connection
from comms_api.database.schema import audit, refresh_tokens, seconds_interval, user_devices, users
from comms_api.tokens.issuer import Role
from comms_api.users.model import LoginRecord, User


async def find_login(connection: Connection, name: str, device_hash: bytes, network: str) -> LoginRecord | None:
    """Return a user, and whether the device and the network of the login are known; None for an unknown user."""
    device = user_devices.c
    is_good = exists().where(device.user_name == users.c.name, device.expires_at > func.now())
    statement = select(
        users.c.password_hash,
        users.c.role,
        is_good.where(device.token_hash == device_hash),
        is_good.where(device.network == network),
    ).where(users.c.name == name)
    row = await connection.first(statement)
    return LoginRecord(*row) if row else None


async def list_users(connection: Connection, after: str | None, limit: int) -> list[User]:
    """Return users by name, starting after `after`."""
    statement = select(users.c.name, users.c.role, users.c.created_at).order_by(users.c.name).limit(limit)
    if after is not None:
        statement = statement.where(users.c.name > after)
    return [User(*row) for row in await connection.execute(statement)]


async def delete_user(connection: Connection, name: str) -> bool:
    """Delete a user; return whether it existed."""
    return await connection.scalar(users.delete().where(users.c.name == name).returning(users.c.name)) is not None


async def is_empty(connection: Connection) -> bool:
    """Return whether no user exists yet."""
    return await connection.scalar(select(users.c.name).limit(1)) is None


async def insert_user(connection: Connection, name: str, password_hash: str, role: Role) -> bool:
    """Add a user; return False when the name is taken."""
    values = {"name": name, "password_hash": password_hash, "role": role}
    statement = insert(users).values(values).on_conflict_do_nothing().returning(users.c.name)
    return await connection.scalar(statement) is not None


async def update_user(connection: Connection, name: str, changes: Mapping[str, str]) -> bool:
    """Change a user; return whether it exists."""
    statement = users.update().where(users.c.name == name).values(changes).returning(users.c.name)
    return await connection.scalar(statement) is not None


ACTOR = "a refresh token"


class RefreshToken(msgspec.Struct, frozen=True):
    """A stored refresh token; all successive tokens since a login form a family."""

    family: UUID | None
    token_hash: bytes


async def insert_refresh_token(connection: Connection, name: str, token: RefreshToken, seconds: float) -> None:
    """Store the first refresh token of a family."""
    values = {
        "user_name": name,
        "family": token.family,
        "token_hash": token.token_hash,
        "expires_at": func.now() + seconds_interval(seconds),
    }
    await connection.execute(insert(refresh_tokens).values(values))


class Renewal(NamedTuple):
    """The user of a presented refresh token; a replay has revoked its family."""

    name: str
    role: Role
    is_replay: bool


async def renew_refresh_token(
    connection: Connection, token: RefreshToken, next_hash: bytes, seconds: float, address: str | None
) -> Renewal | None:
    """Replace a family's token by the next one; return None if the family has ended or is unknown.

    If `token` is not the current one, this ends the family, and the audit trail records it. Of several simultaneous
    requests with the same token, one renews it; the others wait for the first and count as replays.
    """
    is_current = refresh_tokens.c.token_hash == token.token_hash
    renewed = (
        refresh_tokens.update()
        .where(or_(refresh_tokens.c.family == token.family, is_current), refresh_tokens.c.expires_at > func.now())
        .values(
            token_hash=case((is_current, next_hash), else_=refresh_tokens.c.token_hash),
            expires_at=case((is_current, func.now() + seconds_interval(seconds)), else_=func.now()),
        )
        .returning(
            refresh_tokens.c.user_name,
            refresh_tokens.c.family,
            (refresh_tokens.c.token_hash != next_hash).label("ended"),
        )
        .cte("renewed")
    )
    after = func.jsonb_build_object("family", renewed.c.family, "replayed", true())
    recorded = insert(audit).from_select(
        ["id", "actor", "address", "operation", "subject", "key", "after"],
        select(
            func.uuid7(), literal(ACTOR), literal(address), literal("update"), literal("refresh_tokens"),
            renewed.c.user_name, after,
        ).where(renewed.c.ended),
    )  # fmt: skip
    statement = select(users.c.name, users.c.role, renewed.c.ended).join(renewed, renewed.c.user_name == users.c.name)
    row = await connection.first(statement.add_cte(recorded.cte("recorded")))
    return Renewal(*row) if row else None


class SessionHolder(NamedTuple):
    """The user of a session."""

    name: str
    role: Role


async def find_session(connection: Connection, token_hash: bytes) -> SessionHolder | None:
    """Return the user of a browser's session; None if the session has ended or is unknown."""
    statement = (
        select(users.c.name, users.c.role)
        .join(refresh_tokens, refresh_tokens.c.user_name == users.c.name)
        .where(refresh_tokens.c.token_hash == token_hash, refresh_tokens.c.expires_at > func.now())
    )
    row = await connection.first(statement)
    return SessionHolder(*row) if row else None


async def renew_session(connection: Connection, token_hash: bytes, seconds: float) -> SessionHolder | None:
    """Extend a browser's session, and return its user; None if the session has ended or is unknown."""
    statement = (
        refresh_tokens.update()
        .where(
            refresh_tokens.c.token_hash == token_hash,
            refresh_tokens.c.expires_at > func.now(),
            users.c.name == refresh_tokens.c.user_name,
        )
        .values(expires_at=func.now() + seconds_interval(seconds))
        .returning(users.c.name, users.c.role)
    )
    row = await connection.first(statement)
    return SessionHolder(*row) if row else None


async def delete_refresh_tokens(connection: Connection, name: str) -> None:
    """Delete the refresh tokens of a user."""
    await connection.execute(refresh_tokens.delete().where(refresh_tokens.c.user_name == name))


async def forget_refresh_tokens(connection: Connection) -> None:
    """Delete the expired refresh tokens."""
    await connection.execute(refresh_tokens.delete().where(refresh_tokens.c.expires_at <= func.now()))
