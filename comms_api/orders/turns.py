"""Advisory locks that make transactions take turns at a command; each takes this lock first.

A transaction that changes a command's phase takes its turn alone; transactions that depend on the phase share it. Later
statements read the phase and the orders. Their snapshots begin after the wait, so no transaction acts on an old phase.

These are advisory locks because their queue is fair. Shared locks of a row pass over a transaction that waits to change
it, so polls that keep breaking could block a rollout forever.
"""

from collections.abc import Iterable
from uuid import UUID

from sqlalchemy import text

from comms_api.database.connection import Connection

# The seeds keep these kinds of locks apart; a collision of two commands only makes them wait for each other.
_TURN, _STEP = 1, 2

_TAKE = text(f"SELECT pg_advisory_xact_lock(uuid_hash_extended(CAST(:id AS uuid), {_TURN}))")


async def take_turn(connection: Connection, request_id: UUID) -> None:
    """Take a command's turn exclusively until this transaction ends; wait for all that have or share it."""
    await connection.execute(_TAKE, {"id": request_id})


_SHARE = text(f"""
    SELECT pg_advisory_xact_lock_shared(turn) FROM (
        SELECT DISTINCT uuid_hash_extended(request_id, {_TURN}) AS turn
        FROM unnest(CAST(:ids AS uuid[])) AS commands (request_id) ORDER BY turn) AS turns""")


async def share_turns(connection: Connection, request_ids: Iterable[UUID]) -> None:
    """Share the turns of these commands until this transaction ends; waits for transactions that have one exclusively.

    The locks are taken in a fixed order, so that two transactions cannot deadlock.
    """
    await connection.execute(_SHARE, {"ids": list(request_ids)})


_TRY = text(f"SELECT pg_try_advisory_xact_lock(uuid_hash_extended(CAST(:id AS uuid), {_STEP}))")


async def try_step(connection: Connection, request_id: UUID) -> bool:
    """Try to lock the step of this command's rollout until this transaction ends; return whether it is locked."""
    return bool(await connection.scalar(_TRY, {"id": request_id}))
