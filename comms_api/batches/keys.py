"""The idempotency keys of batches: a batch that is sent again with its key is stored once.

The transaction that stores a batch claims its key first, and records the key with the batch. A claim waits for nobody:
while another transaction has claimed the key, the batch is busy, and the batches that share its commit are not. The
keys of a day are one partition, which is dropped the day after the next.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from hashlib import sha256
from typing import Literal, TypeAlias
from uuid import UUID

import msgspec
from sqlalchemy import text

from comms_api.database.connection import Connection, Engine, Row
from comms_api.database.housekeeping import HOUSEKEEPING_SECONDS
from comms_api.database.partitions import drop_partitions
from comms_api.database.schema import batch_keys
from comms_api.duties.repeating import Duty
from comms_api.errors import CommsError, Invalid, Unavailable
from comms_api.fairness.slices import Steps
from comms_api.protocol import IDEMPOTENCY_KEY, KEY_REUSED

KEPT_DAYS = 1
"""The keys of this many days before today are kept, so a key is kept for 24 to 48 hours."""

HASH_BYTES = 16
HASHED_BYTES = 128 * 1024
"""A body is hashed in steps of this many bytes, each of about 0.1 ms."""

Kind: TypeAlias = Literal["stateless", "stateful"]

Claim: TypeAlias = bytes | CommsError | None
"""None for a new key, whose batch is to be stored; the results of the first batch with this key; or an error."""


class BatchKey(msgspec.Struct, frozen=True):
    """The key of one batch."""

    hash: bytes
    """Of the agent, the kind of the batch and the text of the key."""

    digest: bytes
    """Of the decoded body."""

    @property
    def lock(self) -> int:
        """The number of the advisory lock that a transaction holds while it stores the batch."""
        return int.from_bytes(self.hash[:8], "big", signed=True)


def hash_key(agent_id: UUID, kind: Kind, key: str, body: bytes) -> Steps[BatchKey]:
    """Return the key of a batch with a decoded body."""
    digest, content = sha256(usedforsecurity=False), memoryview(body)
    for start in range(0, len(body), HASHED_BYTES):
        digest.update(content[start : start + HASHED_BYTES])
        yield None
    name = sha256(f"{agent_id} {kind} {key}".encode(), usedforsecurity=False)
    return BatchKey(name.digest()[:HASH_BYTES], digest.digest()[:HASH_BYTES])


def key_of_part(key: BatchKey, part: str) -> BatchKey:
    """Return the key of a part that is stored in a separate transaction.

    The part of another body has another key: it must be stored, since nobody can refuse it any more.
    """
    name = sha256(b"%b%b%b" % (key.hash, key.digest, part.encode()), usedforsecurity=False)
    return BatchKey(name.digest()[:HASH_BYTES], key.digest)


async def claim_keys(connection: Connection, keys: Sequence[BatchKey | None]) -> Sequence[Claim]:
    """Lock the keys of a transaction's batches until it ends, and return a claim for each; None needs no key.

    Of batches with the same key, the first gets it; the others are busy.
    """
    by_hash = {key.hash: key for key in keys if key is not None}
    if not by_hash:
        return [None] * len(keys)
    locked = await _lock(connection, by_hash.values())
    known = await _find(connection, locked)
    return [None if key is None else _claim(key, locked, known.get(key.hash)) for key in keys]


def _claim(key: BatchKey, free: set[bytes], first: Row | None) -> Claim:
    if first is not None:
        if first.digest != key.digest:
            return Invalid(f"{IDEMPOTENCY_KEY}: already used for another batch; nothing was stored", code=KEY_REUSED)
        return first.results or b""
    if key.hash not in free:
        return Unavailable(f"{IDEMPOTENCY_KEY}: a batch with this key is being stored; send yours again later")
    free.remove(key.hash)
    return None


# The lock and the look-up are two statements: the look-up sees all commits before the lock.
_LOCK = text("SELECT pg_try_advisory_xact_lock(number) FROM unnest(CAST(:numbers AS bigint[])) AS number")
_FIND = text("SELECT key, digest, results FROM batch_keys WHERE key = ANY(CAST(:hashes AS bytea[]))")


async def _lock(connection: Connection, keys: Iterable[BatchKey]) -> set[bytes]:
    """Return the hashes of the keys that are locked now, and were not locked by another transaction."""
    are_locked = await connection.scalars(_LOCK, {"numbers": [key.lock for key in keys]})
    return {key.hash for key, is_locked in zip(keys, are_locked, strict=True) if is_locked}


async def _find(connection: Connection, hashes: Iterable[bytes]) -> dict[bytes, Row]:
    return {row.key: row for row in await connection.execute(_FIND, {"hashes": list(hashes)})}


_RECORD = text("""
    INSERT INTO batch_keys (key, digest, results) SELECT * FROM
        unnest(CAST(:hashes AS bytea[]), CAST(:digests AS bytea[]), CAST(:results AS bytea[]))""")


async def record_keys(connection: Connection, stored: Sequence[tuple[BatchKey, bytes | None]]) -> None:
    """Record the keys that this transaction has claimed, each with the results to answer to a repetition."""
    if stored:
        hashes, digests = [key.hash for key, _ in stored], [key.digest for key, _ in stored]
        results = [results for _, results in stored]
        await connection.execute(_RECORD, {"hashes": hashes, "digests": digests, "results": results})


def key_duties(engine: Engine) -> list[Duty]:
    """Return the duty that drops old keys."""
    drop = partial(drop_partitions, engine, batch_keys.name, KEPT_DAYS)
    return [Duty("keys of batches", drop, HOUSEKEEPING_SECONDS)]
