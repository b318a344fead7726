"""SQL statements about lookups that all nodes share: one at a time for each question, and recent refusals."""

from uuid import UUID

from sqlalchemy import func, select, text

from comms_api.database.connection import Connection
from comms_api.database.schema import key_lookups, seconds_interval
from comms_api.key_requests.model import Question, Refusal

ROWS_MAXIMUM = 100_000

_CLAIM = text("""
    INSERT INTO key_lookups AS known (question, holder, until)
    VALUES (:question, :holder, now() + make_interval(secs => :seconds))
    ON CONFLICT (question) DO UPDATE SET holder = excluded.holder, until = excluded.until, code = NULL, message = NULL
    WHERE known.until <= now()
    RETURNING holder""")


async def claim(connection: Connection, question: Question, holder: UUID, seconds: float) -> bool:
    """Claim a question for some seconds; return False if it is claimed or was refused recently."""
    parameters = {"question": _text(question), "holder": holder, "seconds": seconds}
    return await connection.scalar(_CLAIM, parameters) is not None


async def find(connection: Connection, question: Question) -> Refusal | bool:
    """Return the recent refusal of a question, or whether a node has claimed it."""
    columns = key_lookups.c
    statement = select(columns.code, columns.message).where(
        columns.question == _text(question), columns.until > func.now()
    )
    row = await connection.first(statement)
    if row is None or row["code"] is None:
        return row is not None
    return Refusal(row["code"], row["message"])


async def refuse(connection: Connection, question: Question, holder: UUID, refusal: Refusal, seconds: float) -> None:
    """Turn a claim into a refusal that all nodes remember for some seconds."""
    columns = key_lookups.c
    values = {"code": refusal.code, "message": refusal.message, "until": func.now() + seconds_interval(seconds)}
    is_held = (columns.question == _text(question)) & (columns.holder == holder)
    await connection.execute(key_lookups.update().where(is_held).values(values))


async def release(connection: Connection, question: Question, holder: UUID) -> None:
    """Give up a claim."""
    columns = key_lookups.c
    is_held = (columns.question == _text(question)) & (columns.holder == holder)
    await connection.execute(key_lookups.delete().where(is_held))


async def delete_expired(connection: Connection, rows_maximum: int = ROWS_MAXIMUM) -> None:
    """Delete expired rows, and those beyond the maximum, starting with those that expire first."""
    columns = key_lookups.c
    excess = select(columns.question).order_by(columns.until.desc()).offset(rows_maximum)
    await connection.execute(key_lookups.delete().where((columns.until <= func.now()) | columns.question.in_(excess)))


def _text(question: Question) -> str:
    return f"{question.kind}:{question.value}"
