"""Advisory locks by which transactions take turns at a command: the first thing that each of them locks.

Whoever changes the phase of a command takes its turn alone; whoever decides by the phase shares the turn. The phase
and the orders are read by later statements, whose snapshots begin after the wait, so nobody acts on an old phase.

These are advisory locks because their queue is fair. Shared locks of a row pass over a transaction that waits to change
it, so polls that keep breaking could hold a rollout up for ever.
"""

from collections.abc import Iterable
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from comms_api.database.direct import Connection

# The seeds tell these locks from one another; a collision of two commands only makes them wait for each other.
_TURN, _STEP = 1, 2

_TAKE = text(f"SELECT pg_advisory_xact_lock(uuid_hash_extended(CAST(:id AS uuid), {_TURN}))")


async def take_turn(connection: AsyncConnection, request_id: UUID) -> None:
    """Wait until no other transaction has or shares a command's turn, and keep it until this one ends."""
    await connection.execute(_TAKE, {"id": request_id})


_SHARE = text(f"""
    SELECT pg_advisory_xact_lock_shared(turn) FROM (
        SELECT DISTINCT uuid_hash_extended(request_id, {_TURN}) AS turn
        FROM unnest(CAST(:ids AS uuid[])) AS commands (request_id) ORDER BY turn) AS turns""")


async def share_turns(connection: Connection, request_ids: Iterable[UUID]) -> None:
    """Wait until nobody has the turn of any of these commands, and keep everybody from it until the transaction ends.

    The locks are taken in one order, so that two transactions cannot wait for each other.
    """
    await connection.execute(_SHARE, {"ids": list(request_ids)})


_TRY = text(f"SELECT pg_try_advisory_xact_lock(uuid_hash_extended(CAST(:id AS uuid), {_STEP}))")


async def is_first(connection: AsyncConnection, request_id: UUID) -> bool:
    """Return whether no other transaction is at a step of this command's rollout, and keep others from it if so."""
    return bool(await connection.scalar(_TRY, {"id": request_id}))
