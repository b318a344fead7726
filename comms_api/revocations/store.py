"""The statements about revocations, of which each subject has at most one."""

from sqlalchemy import ARRAY, BigInteger, Double, Text, cast, func, literal, select
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


_EPOCH = func.extract("epoch", revocations.c.revoked_at)


async def find_state(connection: Connection) -> tuple[int, int]:
    """Return two numbers, which together change with every revocation and every deletion of one.

    Times only grow: a revocation is later than the one that it replaces, and only the oldest are deleted.
    """
    microseconds = func.sum(cast(_EPOCH * 1_000_000, BigInteger))
    [(count, total)] = await connection.execute(select(func.count(), microseconds).select_from(revocations))
    return count, int(total or 0)


async def list_revocations(connection: Connection, seconds: float) -> dict[str, float]:
    """Return when each subject was revoked, in seconds since 1970, over the last `seconds`."""
    is_recent = revocations.c.revoked_at > func.now() - seconds_interval(seconds)
    # Two arrays take a fraction of the time of a row for each subject, of which a large block has 100,000.
    columns = (func.array_agg(revocations.c.subject), func.array_agg(cast(_EPOCH, Double)))
    [(subjects, revoked_at)] = await connection.execute(select(*columns).where(is_recent))
    return dict(zip(subjects or (), revoked_at or (), strict=True))


async def delete_revocations(connection: Connection, seconds: float) -> None:
    """Delete the revocations that are older than `seconds`."""
    await connection.execute(
        revocations.delete().where(revocations.c.revoked_at < func.now() - seconds_interval(seconds))
    )
