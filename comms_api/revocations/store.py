"""The statements about revocations, of which each subject has at most one."""

from sqlalchemy import ARRAY, Text, func, literal, select
from sqlalchemy.dialects.postgresql import insert

from comms_api.database.connection import Connection
from comms_api.database.schema import revocations, seconds_interval


async def revoke_tokens(connection: Connection, *subjects: str) -> None:
    """End every token issued to these subjects up to now."""
    # In order, so that two such transactions cannot deadlock.
    subject = func.unnest(literal(sorted(subjects), ARRAY(Text))).column_valued("subject")
    rows = select(subject, func.clock_timestamp()).order_by(subject)
    statement = insert(revocations).from_select([revocations.c.subject, revocations.c.revoked_at], rows)
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
