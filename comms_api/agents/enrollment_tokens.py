"""Enrollment tokens: agents enroll with them without a user. Each has a lifetime, groups, and perhaps a use limit."""

import secrets
from uuid import UUID

from sqlalchemy import func, or_, select

from comms_api.agents.model import EnrollmentToken, NewEnrollmentToken
from comms_api.database.connection import Connection
from comms_api.database.schema import enrollment_tokens, seconds_interval
from comms_api.tokens.secret import token_digest

_SHOWN = tuple(column for column in enrollment_tokens.c if column.name != "token_hash")


async def insert_token(connection: Connection, token_id: UUID, token: NewEnrollmentToken, user: str) -> str:
    """Return a new token; only its hash is stored."""
    made = secrets.token_urlsafe(32)
    values = {
        "id": token_id,
        "token_hash": token_digest(made),
        "description": token.description,
        "groups": list(token.groups),
        "uses_left": token.uses,
        "user_name": user,
        "expires_at": func.now() + seconds_interval(token.expires_in),
    }
    await connection.execute(enrollment_tokens.insert().values(values))
    return made


async def is_known(connection: Connection, token: str) -> bool:
    """Return whether a token exists and has not expired; it may be used up."""
    table = enrollment_tokens.c
    statement = select(table.id).where(table.token_hash == token_digest(token), table.expires_at > func.now())
    return await connection.scalar(statement) is not None


async def use_token(connection: Connection, token: str) -> EnrollmentToken | None:
    """Use a token once, in this transaction, and return it; None if it is unknown, used up or expired."""
    table = enrollment_tokens.c
    statement = (
        enrollment_tokens.update()
        .where(table.token_hash == token_digest(token), table.expires_at > func.now())
        .where(or_(table.uses_left.is_(None), table.uses_left > 0))
        .values(uses_left=table.uses_left - 1)
        .returning(*_SHOWN)
    )
    row = await connection.first(statement)
    return EnrollmentToken(**row) if row else None


async def list_tokens(connection: Connection, after: UUID | None, limit: int) -> list[EnrollmentToken]:
    """Return tokens, oldest first, including expired ones."""
    statement = select(*_SHOWN).order_by(enrollment_tokens.c.id).limit(limit)
    if after is not None:
        statement = statement.where(enrollment_tokens.c.id > after)
    return [EnrollmentToken(**row) for row in await connection.execute(statement)]


async def delete_token(connection: Connection, token_id: UUID) -> bool:
    """Revoke a token; return whether there was one."""
    statement = enrollment_tokens.delete().where(enrollment_tokens.c.id == token_id).returning(enrollment_tokens.c.id)
    return await connection.scalar(statement) is not None
