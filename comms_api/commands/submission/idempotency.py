"""Answer a repeated Idempotency-Key with the answer to its first request, and submit nothing again.

The key is stored in the transaction that creates the orders. So a second request with the same key waits until the
first commits, and a first request that fails leaves no trace.
"""

import hashlib
from collections.abc import Sequence

import msgspec
from sqlalchemy import ColumnElement, and_, func, select, text
from sqlalchemy.dialects.postgresql import insert

from comms_api.commands.model import Submitted
from comms_api.database.connection import Connection
from comms_api.database.schema import idempotency_keys
from comms_api.errors import Conflict, Invalid

HEADER = "idempotency-key"
KEPT_HOURS = 24
KEY_LENGTH_MAXIMUM = 255

_ANSWER = msgspec.json.Decoder(list[Submitted])


class IdempotencyKey(msgspec.Struct, frozen=True):
    """A user's key, and the hash of the body it was sent with."""

    user: str
    key: str
    body_hash: bytes


def read_key(user: str, header: str | None, body: bytes) -> IdempotencyKey | None:
    """Return the key of a request, or None; raises `Invalid` if it is empty, too long or not printable."""
    if header is None:
        return None
    if not (0 < len(header) <= KEY_LENGTH_MAXIMUM and header.isascii() and header.isprintable()):
        raise Invalid(f"Idempotency-Key: must have 1 to {KEY_LENGTH_MAXIMUM} printable ASCII characters")
    return IdempotencyKey(user, header, hashlib.sha256(body).digest())


async def claim_key(connection: Connection, key: IdempotencyKey) -> bool:
    """Store a new key; return False if it was used before, after waiting for the transaction that uses it."""
    values = {"user_name": key.user, "key": key.key, "body_hash": key.body_hash}
    statement = insert(idempotency_keys).values(values).on_conflict_do_nothing().returning(idempotency_keys.c.key)
    return await connection.scalar(statement) is not None


async def store_answer(connection: Connection, key: IdempotencyKey, answer: Sequence[Submitted]) -> None:
    """Store the answer to the first request with this key."""
    await connection.execute(idempotency_keys.update().where(_is(key)).values(answer=list(answer)))


async def find_answer(connection: Connection, key: IdempotencyKey) -> list[Submitted] | None:
    """Return the answer to the first request, or None; raises `Invalid` if that request had another body."""
    statement = select(idempotency_keys.c.body_hash, idempotency_keys.c.answer).where(_is(key))
    row = await connection.first(statement)
    if row is None:
        return None
    if row.body_hash != key.body_hash:
        raise Invalid("Idempotency-Key: has already been used with another body")
    return _ANSWER.decode(row.answer)


async def get_answer(connection: Connection, key: IdempotencyKey) -> list[Submitted]:
    """Return the answer to the first request; raises `Invalid` if it had another body, `Conflict` if it has expired."""
    answer = await find_answer(connection, key)
    if answer is None:
        raise Conflict("Idempotency-Key: has just expired; send the request again")
    return answer


_FORGET = idempotency_keys.delete().where(
    idempotency_keys.c.created_at < func.now() - text(f"interval '{KEPT_HOURS} h'")
)


async def forget_keys(connection: Connection) -> None:
    """Delete the keys that are older than `KEPT_HOURS`."""
    await connection.execute(_FORGET)


def _is(key: IdempotencyKey) -> ColumnElement[bool]:
    return and_(idempotency_keys.c.user_name == key.user, idempotency_keys.c.key == key.key)
