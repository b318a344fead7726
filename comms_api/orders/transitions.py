"""The statements that end orders: results, expiry, cancellation.

An order is open while its row is in `orders`; one statement ends it by moving the row to `finished_orders`. Only one
statement can delete the row, so exactly one of a result, an expiry and a cancellation ends the order.
"""

from collections.abc import Sequence
from uuid import UUID

import msgspec
from sqlalchemy import text

from comms_api.database.connection import Connection
from comms_api.orders.model import PRIORITY_MAXIMUM, CommandTrace, Ending, OrderKey
from comms_api.orders.turns import take_turn
from comms_api.protocol import (
    CANCEL_ACTION,
    DUPLICATE_ORDER_MESSAGE,
    FETCH_CONFIG_ACTION,
    RESULT_FAILURE,
    RESULT_TIMEOUT,
    SET_GROUP_ACTION,
    CancelArguments,
)

LOCK = """
        SELECT orders.order_id FROM orders {} ORDER BY orders.order_id FOR UPDATE OF orders"""
"""Lock the rows of many orders sorted by id, so that two statements cannot deadlock."""

_FINISH = text(f"""
    WITH reported AS (
        SELECT * FROM unnest(CAST(:order_ids AS uuid[]), CAST(:agents AS uuid[]), CAST(:statuses AS text[]),
            CAST(:codes AS int[]), CAST(:messages AS text[]), CAST(:data AS text[]), CAST(:outcomes AS text[]))
            AS reported (order_id, agent_id, status, code, message, data, outcome)
    ), locked AS MATERIALIZED ({LOCK.format("JOIN reported USING (order_id, agent_id)")}
    ), ended AS (
        DELETE FROM orders USING reported, locked
        WHERE orders.order_id = locked.order_id
            AND orders.order_id = reported.order_id AND orders.agent_id = reported.agent_id AND orders.attempt > 0
            -- An agent reports this when it is offered an order that it is still executing.
            AND NOT (orders.attempt > 1 AND reported.code = {RESULT_FAILURE} AND reported.message = :duplicate)
        RETURNING orders.order_id, orders.request_id, orders.agent_id, orders.agent_groups, orders.attempt,
            orders.created_at, orders.expires_at, orders.sent_at,
            reported.status, reported.code, reported.message, CAST(reported.data AS json), reported.outcome
    ), applying AS MATERIALIZED (
        SELECT agent_configurations.agent_id FROM agent_configurations WHERE agent_id IN (
            SELECT ended.agent_id FROM ended JOIN commands USING (request_id)
            WHERE ended.status = 'success' AND action_name IN ('{FETCH_CONFIG_ACTION}', '{SET_GROUP_ACTION}'))
        ORDER BY agent_id FOR UPDATE
    ), applied AS (
        -- If the agent has fetched all of its files, it now runs them.
        UPDATE agent_configurations SET reported_at = now(),
            applied_sha256 = CASE unfetched WHEN '{{}}' THEN fetched_sha256 ELSE applied_sha256 END
        FROM applying WHERE agent_configurations.agent_id = applying.agent_id
    )
    INSERT INTO finished_orders (order_id, request_id, agent_id, agent_groups, attempt, created_at, expires_at,
        sent_at, status, result_code, result_message, result_data, outcome)
    SELECT * FROM ended
    RETURNING order_id, agent_id, extract(epoch FROM finished_at - coalesce(sent_at, finished_at))""")


async def finish_orders(connection: Connection, endings: Sequence[Ending]) -> dict[OrderKey, float]:
    """End the reported orders that are open, offered and belong to their reporters; return the seconds since the offer.

    The success of an order to apply a configuration also records the version that the agent now runs.
    """
    parameters = {
        "order_ids": [ending.order_id for ending in endings],
        "agents": [ending.agent_id for ending in endings],
        "statuses": [ending.status for ending in endings],
        "codes": [ending.code for ending in endings],
        "messages": [ending.message for ending in endings],
        "data": [ending.data for ending in endings],
        "outcomes": [ending.outcome for ending in endings],
        "duplicate": DUPLICATE_ORDER_MESSAGE,
    }
    rows = await connection.execute(_FINISH, parameters)
    return {(order_id, agent_id): float(seconds) for order_id, agent_id, seconds in rows}


_FIND_STATUSES = text("""
    SELECT order_id, agent_id, CASE WHEN attempt > 0 THEN 'sent' ELSE 'pending' END AS status FROM orders
        WHERE (order_id, agent_id) IN (SELECT * FROM unnest(CAST(:order_ids AS uuid[]), CAST(:agents AS uuid[])))
    UNION ALL
    SELECT order_id, agent_id, status FROM finished_orders
        WHERE order_id = ANY(CAST(:order_ids AS uuid[]))
            AND (order_id, agent_id) IN (SELECT * FROM unnest(CAST(:order_ids AS uuid[]), CAST(:agents AS uuid[])))""")


async def find_statuses(connection: Connection, keys: Sequence[OrderKey]) -> dict[OrderKey, str]:
    """Return the status of each order that exists and belongs to the agent of its key."""
    parameters = {
        "order_ids": [order_id for order_id, _ in keys],
        "agents": [agent_id for _, agent_id in keys],
    }
    rows = await connection.execute(_FIND_STATUSES, parameters)
    return {(order_id, agent_id): status for order_id, agent_id, status in rows}


_FIND_TRACES = text("""
    SELECT order_id, agent_id, request_id, traceparent FROM finished_orders JOIN commands USING (request_id)
    WHERE order_id = ANY(CAST(:order_ids AS uuid[])) AND traceparent IS NOT NULL""")


async def find_traces(connection: Connection, order_ids: Sequence[UUID]) -> dict[OrderKey, CommandTrace]:
    """Return the traces of ended orders; an order of a command without a trace is missing."""
    rows = await connection.execute(_FIND_TRACES, {"order_ids": order_ids})
    return {(order_id, agent_id): CommandTrace(*trace) for order_id, agent_id, *trace in rows}


_EXPIRE = text(f"""
    WITH expired AS (
        -- With an array instead of a join, the planner uses the primary key, whatever number of orders it expects.
        DELETE FROM orders WHERE order_id = ANY(ARRAY(
            SELECT order_id FROM orders WHERE expires_at <= now()
            ORDER BY expires_at LIMIT :limit FOR UPDATE SKIP LOCKED))
        RETURNING order_id, request_id, agent_id, agent_groups, attempt, created_at, expires_at, sent_at
    )
    INSERT INTO finished_orders (order_id, request_id, agent_id, agent_groups, attempt, created_at, expires_at,
        sent_at, status, result_code, result_message, outcome)
    SELECT expired.*, 'failure', {RESULT_TIMEOUT},
        CASE attempt WHEN 0 THEN 'expired before delivery' ELSE 'expired after delivery, without an answer' END,
        CASE attempt WHEN 0 THEN 'expired_before_delivery' ELSE 'expired_after_delivery' END
    FROM expired""")


async def expire_orders(connection: Connection, limit: int) -> int:
    """End up to `limit` expired orders and return how many; any number of nodes may do this at once."""
    return await connection.change(_EXPIRE, {"limit": limit})


_EXPIRE_EARLY = text("""
    UPDATE orders SET expires_at = now() WHERE order_id = ANY(ARRAY(
        SELECT order_id FROM orders WHERE order_id = ANY(CAST(:order_ids AS uuid[])) AND expires_at > now()
        ORDER BY order_id FOR UPDATE SKIP LOCKED))""")


async def expire_early(connection: Connection, order_ids: Sequence[UUID]) -> None:
    """Make these orders expire now if they are open."""
    await connection.execute(_EXPIRE_EARLY, {"order_ids": list(order_ids)})


_CANCEL = """
    WITH locked AS MATERIALIZED ({}
    ), cancelled AS (
        DELETE FROM orders WHERE order_id IN (SELECT order_id FROM locked)
        RETURNING order_id, request_id, agent_id, agent_groups, attempt, created_at, expires_at, sent_at
    ), ended AS (
        INSERT INTO finished_orders (order_id, request_id, agent_id, agent_groups, attempt, created_at, expires_at,
            sent_at, status, result_message)
        SELECT cancelled.*, 'cancelled',
            CASE attempt WHEN 0 THEN 'cancelled before delivery by ' ELSE 'cancelled after delivery by ' END || :user
        FROM cancelled
    )
    SELECT count(*), count(*) FILTER (WHERE attempt > 0) FROM cancelled"""
_CANCEL_ORDER = text(_CANCEL.format(LOCK.format("WHERE order_id = :id")))
_CANCEL_COMMAND = text(_CANCEL.format(LOCK.format("WHERE request_id = :id")))


async def cancel_order(connection: Connection, order_id: UUID, user: str) -> tuple[int, int]:
    """Cancel an open order; return how many were cancelled (0 or 1), and how many of these an agent has received."""
    [(ended, offered)] = await connection.execute(_CANCEL_ORDER, {"id": order_id, "user": user})
    return ended, offered


_RECORD = text("""
    INSERT INTO audit (id, actor, address, operation, subject, key, after)
    VALUES (uuid7(), :user, nullif(current_setting('comms_api.address', true), ''), 'update', 'orders', :key,
        json_build_object('status', 'cancelled'))""")


async def record_cancellation(connection: Connection, order_id: UUID, user: str) -> None:
    """Record in the audit trail that a user has cancelled an order; a trigger does so for whole commands."""
    await connection.execute(_RECORD, {"user": user, "key": str(order_id)})


async def cancel_command(connection: Connection, request_id: UUID, user: str) -> tuple[int, int]:
    """Cancel every open order of a command; return their number, and how many of them agents had received.

    The command itself is cancelled if any of its orders was, or if it is continuous.
    """
    await take_turn(connection, request_id)
    [(ended, offered)] = await connection.execute(_CANCEL_COMMAND, {"id": request_id, "user": user})
    await connection.execute(_CLOSE, {"id": request_id, "reason": f"cancelled by {user}", "has_ended": ended > 0})
    return ended, offered


_CLOSE = text("""
    UPDATE commands SET phase = 'cancelled', phase_reason = :reason
    WHERE request_id = :id AND (CAST(:has_ended AS boolean) OR (continues_until > now() AND phase <> 'cancelled'))""")


class CancelNotice(msgspec.Struct, frozen=True):
    """The command that notifies agents of a cancellation; they get its orders at their next poll."""

    notice_id: UUID
    user: str
    arguments: CancelArguments
    recipients: int
    """The number of cancelled orders that agents have received."""

    @property
    def is_command(self) -> bool:
        """Whether a whole command was cancelled."""
        return self.arguments.request_id is not None

    @property
    def cancelled_id(self) -> UUID | None:
        """The command or the order."""
        return self.arguments.request_id or self.arguments.order_id


_NOTIFY = """
    WITH command AS (
        INSERT INTO commands (request_id, source, user_name, target_type, target_ids, action_name, action_version,
            action_args, timeout_seconds, priority, orders, starts_at, expires_at)
        SELECT :notice_id, source, :user, target_type, target_ids, '{action}', '', CAST(:args AS json),
            timeout_seconds, :priority, :recipients, now(), now() + make_interval(secs => timeout_seconds)
        FROM commands WHERE request_id = (
            SELECT request_id FROM finished_orders WHERE {named} = :id LIMIT 1) AND action_name <> '{action}'
        RETURNING request_id, expires_at, priority
    )
    INSERT INTO orders (order_id, request_id, agent_id, agent_groups, expires_at, priority, bytes)
    SELECT uuid7(), command.request_id, agent_id, agent_groups, command.expires_at, command.priority, 1000
    FROM command CROSS JOIN finished_orders
    -- Only orders that this transaction has cancelled.
    WHERE finished_orders.{named} = :id AND status = 'cancelled' AND attempt > 0 AND finished_at = now()"""
_NOTIFY_OF_ORDER = text(_NOTIFY.format(named="order_id", action=CANCEL_ACTION))
_NOTIFY_OF_COMMAND = text(_NOTIFY.format(named="request_id", action=CANCEL_ACTION))


async def add_cancel_orders(connection: Connection, notice: CancelNotice) -> int:
    """Add an order for each agent that has received an order which this transaction cancels; return how many."""
    if not notice.recipients:
        return 0
    statement = _NOTIFY_OF_COMMAND if notice.is_command else _NOTIFY_OF_ORDER
    parameters = {
        "notice_id": notice.notice_id,
        "user": notice.user,
        "args": msgspec.json.encode(notice.arguments).decode(),
        "priority": PRIORITY_MAXIMUM,
        "recipients": notice.recipients,
        "id": notice.cancelled_id,
    }
    return await connection.change(statement, parameters)
