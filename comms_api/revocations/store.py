"""The statements about revocations, of which each subject has at most one."""

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert

from comms_api.database.connection import Connection
from comms_api.database.schema import revocations, seconds_interval


async def revoke_tokens(connection: Connection, subject: str) -> None:
    """End every token issued to `subject` up to now."""
    statement = insert(revocations).values(subject=subject, revoked_at=func.clock_timestamp())
    await connection.execute(
        statement.on_conflict_do_update(
            index_elements=[revocations.c.subject], set_={"revoked_at": statement.excluded.revoked_at}
        )
    )


async def was_revoked_since(connection: Connection, subject: str, seconds: float) -> bool:
    """Return whether a subject's tokens have been revoked since a moment (seconds since 1970)."""
    statement = select(revocations.c.subject).where(
        revocations.c.subject == subject, func.extract("epoch", revocations.c.revoked_at) >= seconds
    )
    return await connection.scalar(statement) is not None


async def list_revocations(connection: Connection, seconds: float) -> dict[str, float]:
    """Return when each subject was revoked, in seconds since 1970, over the last `seconds`."""
    statement = select(revocations.c.subject, func.extract("epoch", revocations.c.revoked_at)).where(
        revocations.c.revoked_at > func.now() - seconds_interval(seconds)
    )
    return {subject: float(revoked_at) for subject, revoked_at in await connection.execute(statement)}


async def delete_revocations(connection: Connection, seconds: float) -> None:
    """Delete the revocations that are older than `seconds`."""
    await connection.execute(
        revocations.delete().where(revocations.c.revoked_at < func.now() - seconds_interval(seconds))
    )
