"""The statements that hold and release the orders of a command: pause, resume, and the steps of a rollout.

A held order has never been offered (`attempt` is 0), and its `offer_at` is infinity. Its timeout begins when it is
released. Until then it is kept for the longest allowed timeout after its command's start or pause.

Each function that changes a phase takes the command's turn before it locks anything else (`turns`).
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal
from uuid import UUID

import msgspec
from sqlalchemy import text

from comms_api.commands.model import Phase
from comms_api.commands.rollout import Rollout, RolloutProgress
from comms_api.database.connection import Connection
from comms_api.orders.turns import take_turn, try_step


class Rolling(msgspec.Struct, frozen=True):
    """A command whose rollout is in progress, locked by this transaction."""

    request_id: UUID
    rollout: Rollout
    credit: float
    seconds: float
    """Since the last step."""

    resumed_at: datetime


class Halt(msgspec.Struct, frozen=True):
    """The reason of a pause or a stop, and the time for which the held orders are kept."""

    phase: Literal["paused", "stopped"]
    reason: str
    held_seconds: float


_LIST = text("SELECT request_id FROM commands WHERE phase = 'rolling' AND starts_at <= now()")


async def list_rolling(connection: Connection) -> list[UUID]:
    """Return the commands whose rollout is in progress."""
    return await connection.scalars(_LIST)


_LIST_PAUSED = text("SELECT request_id FROM commands WHERE phase = 'paused'")


async def list_paused(connection: Connection) -> list[UUID]:
    """Return the paused commands."""
    return await connection.scalars(_LIST_PAUSED)


_FIND = text("""
    SELECT rollout, rollout_credit, extract(epoch FROM now() - greatest(rolled_at, starts_at))::float8 AS seconds,
        resumed_at
    FROM commands WHERE request_id = :id AND phase = 'rolling'""")


async def lock_rolling(connection: Connection, request_id: UUID) -> Rolling | None:
    """Lock a command's rollout and return it; None if it is not in progress or another node works on it."""
    if not await try_step(connection, request_id):
        return None
    await take_turn(connection, request_id)
    row = await connection.first(_FIND, {"id": request_id})
    if row is None:
        return None
    rollout = msgspec.json.decode(row.rollout, type=Rollout)
    return Rolling(request_id, rollout, row.rollout_credit, row.seconds, row.resumed_at)


_PROGRESS = text("""
    SELECT open.held, open.released, open.unsent, ended.ended, ended.failed, commands.orders AS total
    FROM commands, LATERAL (
        SELECT count(*) FILTER (WHERE attempt = 0 AND offer_at = 'infinity') AS held,
            count(*) FILTER (WHERE attempt > 0 OR offer_at < 'infinity') AS released,
            count(*) FILTER (WHERE attempt = 0) AS unsent
        FROM orders WHERE orders.request_id = commands.request_id
    ) AS open, LATERAL (
        SELECT count(*) FILTER (WHERE status <> 'cancelled') AS ended,
            count(*) FILTER (WHERE status = 'failure') AS failed
        FROM finished_orders
        WHERE finished_orders.request_id = commands.request_id AND finished_at >= commands.resumed_at
    ) AS ended
    WHERE commands.request_id = :id""")


async def find_progress(connection: Connection, request_id: UUID, credit: float) -> RolloutProgress:
    """Return the progress of a rollout: the counts of its orders, and its credit."""
    [row] = await connection.execute(_PROGRESS, {"id": request_id})
    return RolloutProgress(row.total, row.held, row.released, row.ended, row.failed, row.unsent, credit)


_RELEASE = text("""
    UPDATE orders SET offer_at = greatest(now(), commands.starts_at),
        expires_at = greatest(now(), commands.starts_at) + make_interval(secs => commands.timeout_seconds)
    FROM commands WHERE commands.request_id = :id AND orders.order_id = ANY(ARRAY(
        SELECT order_id FROM orders AS held
        WHERE held.request_id = :id AND attempt = 0 AND offer_at = 'infinity'
        ORDER BY order_id LIMIT :limit FOR UPDATE))""")


async def release_held(connection: Connection, request_id: UUID, limit: int | None = None) -> int:
    """Release up to `limit` held orders of a command, oldest first, and start their timeouts; return how many."""
    return await connection.change(_RELEASE, {"id": request_id, "limit": limit})


_STEP = text("""
    UPDATE commands SET phase = :phase, phase_reason = :reason, rolled_at = now(), rollout_credit = :credit
    WHERE request_id = :id""")


async def record_step(connection: Connection, rolling: Rolling, phase: Phase, reason: str, credit: float) -> None:
    """Store the result of a step of a rollout."""
    parameters = {"id": rolling.request_id, "phase": phase, "reason": reason, "credit": credit}
    await connection.execute(_STEP, parameters)


_HOLD = text("""
    UPDATE orders SET offer_at = 'infinity', expires_at = greatest(expires_at, now() + make_interval(secs => :seconds))
    WHERE attempt = 0 AND order_id = ANY(ARRAY(
        SELECT order_id FROM orders AS unsent
        WHERE unsent.request_id = :id AND attempt = 0 AND offer_at < 'infinity'
            AND EXISTS (SELECT FROM commands WHERE request_id = :id AND phase IN ('released', 'rolling'))
        ORDER BY order_id FOR UPDATE))""")

_IS_CONTINUOUS = text("SELECT continues_until > now() FROM commands WHERE request_id = :id")

# If a transaction is ending the order, this waits for it and then selects the next order.
_KEEP_OPEN = text("SELECT order_id FROM orders WHERE request_id = :id ORDER BY order_id LIMIT 1 FOR KEY SHARE")

_HALT = text("""
    UPDATE commands SET phase = :phase, phase_reason = :reason,
        expires_at = greatest(expires_at, now() + make_interval(secs => :seconds))
    WHERE request_id = :id AND phase IN ('released', 'rolling')""")


async def halt(connection: Connection, request_id: UUID, halt: Halt) -> int | None:
    """Hold the orders of a command that were never offered, and return their number.

    Returns None and changes nothing if the command is already held, or has no open order and is not continuous.
    """
    await take_turn(connection, request_id)
    held = await connection.change(_HOLD, {"id": request_id, "seconds": halt.held_seconds})
    has_open = held or await connection.scalar(_KEEP_OPEN, {"id": request_id}) is not None
    if not has_open and not await connection.scalar(_IS_CONTINUOUS, {"id": request_id}):
        return None
    parameters = {"id": request_id, "phase": halt.phase, "reason": halt.reason, "seconds": halt.held_seconds}
    return held if await connection.change(_HALT, parameters) else None


_RESUME = text("""
    UPDATE commands SET phase = CASE WHEN rollout IS NULL THEN 'released' ELSE 'rolling' END, phase_reason = :reason,
        rollout_credit = 1, rolled_at = now(), resumed_at = clock_timestamp()
    WHERE request_id = :id AND phase IN ('paused', 'stopped') RETURNING phase""")


async def resume(connection: Connection, request_id: UUID, reason: str) -> tuple[Phase, int] | None:
    """Resume a paused or stopped command; return its phase and how many orders were released at once.

    Returns None if the command was neither.
    """
    await take_turn(connection, request_id)
    phase: Phase | None = await connection.scalar(_RESUME, {"id": request_id, "reason": reason})
    if phase is None:
        return None
    return phase, await release_held(connection, request_id) if phase == "released" else 0


_END_PAUSES = text("""
    UPDATE commands SET phase = 'released', phase_reason = phase_reason || ', until every order had ended'
    WHERE request_id = ANY(ARRAY(
        SELECT request_id FROM commands AS paused
        WHERE paused.request_id = ANY(CAST(:ids AS uuid[])) AND phase = 'paused'
            AND (continues_until IS NULL OR continues_until <= now())
            AND NOT EXISTS (SELECT FROM orders WHERE orders.request_id = paused.request_id)
        FOR UPDATE SKIP LOCKED))""")


async def end_pauses(connection: Connection, paused: Sequence[UUID]) -> None:
    """End the pauses of commands without open orders, since such a command never gets new orders."""
    await connection.execute(_END_PAUSES, {"ids": list(paused)})
