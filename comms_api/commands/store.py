"""The statements of commands and open orders: expand, claim, release, finish, expire.

An order is open while its row is in `orders` and finished once one statement has moved it to `finished_orders`:
whoever deletes the row ends the order, so of a result, an expiry and a replay exactly one does.
"""

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from comms_api.commands.model import ORDERS_PER_ANSWER_MAXIMUM, Claimed, NewCommand
from comms_api.commands.outcomes import Ending
from comms_api.database.schema import commands, orders
from comms_api.protocol import DUPLICATE_ORDER_MESSAGE, RESULT_FAILURE, RESULT_TIMEOUT, Action, Order, Target


async def insert_commands(connection: AsyncConnection, user: str, submitted: Iterable[tuple[UUID, NewCommand]]) -> None:
    """Add commands under the ids given; `user` is who submits them, unless a command names another."""
    values = [
        {
            "request_id": request_id,
            "source": command.source,
            "user_name": command.user or user,
            "target_type": command.target.type,
            "target_id": command.target.id,
            "action_name": command.action.name,
            "action_version": command.action.version,
            "action_args": command.action.args,
            "timeout_seconds": command.timeout,
            "expires_at": text("now() + make_interval(secs => :seconds)").bindparams(seconds=command.timeout),
        }
        for request_id, command in submitted
    ]
    for row in values:
        await connection.execute(insert(commands).values(row))


_EXPAND = text("""
    WITH expanded AS (
        INSERT INTO orders (order_id, request_id, agent_id, agent_groups, created_at, expires_at)
        SELECT uuid7(), command.request_id, target.agent_id,
            ARRAY(SELECT m.group_name FROM group_members AS m WHERE m.agent_id = target.agent_id ORDER BY 1),
            command.created_at, command.expires_at
        FROM commands AS command CROSS JOIN LATERAL (
            SELECT id AS agent_id FROM agents
            WHERE id = CASE command.target_type WHEN 'agent' THEN CAST(command.target_id AS uuid) END
            UNION ALL
            SELECT agent_id FROM group_members
            WHERE group_name = CASE command.target_type WHEN 'group' THEN command.target_id END
        ) AS target
        WHERE command.request_id = ANY(CAST(:request_ids AS uuid[]))
        ORDER BY command.request_id
        RETURNING request_id, order_id
    )
    SELECT request_id, count(*), (array_agg(order_id))[1:CAST(:shown AS int)] FROM expanded GROUP BY request_id""")


async def expand_commands(
    connection: AsyncConnection, request_ids: Sequence[UUID], shown: int
) -> dict[UUID, tuple[int, list[UUID]]]:
    """Make one order per targeted agent; return for each command how many, and the first `shown` of their ids."""
    rows = await connection.execute(_EXPAND, {"request_ids": list(request_ids), "shown": shown})
    return {request_id: (count, order_ids) for request_id, count, order_ids in rows}


_CLAIM = text(f"""
    WITH due AS (
        SELECT open.order_id FROM unnest(CAST(:agents AS uuid[])) AS waiting (agent_id) CROSS JOIN LATERAL (
            SELECT order_id FROM orders
            WHERE orders.agent_id = waiting.agent_id
                AND (lease_until IS NULL OR lease_until <= now()) AND expires_at > now()
            ORDER BY position LIMIT {ORDERS_PER_ANSWER_MAXIMUM} FOR UPDATE SKIP LOCKED
        ) AS open
    ), claimed AS (
        UPDATE orders SET attempt = attempt + 1, sent_at = coalesce(sent_at, now()),
            lease_until = now() + make_interval(secs => :lease_seconds)
        -- An array, and not a join: so the planner goes by the primary key, however large it takes `due` to be.
        WHERE orders.order_id = ANY(ARRAY(SELECT order_id FROM due))
        RETURNING orders.order_id, orders.agent_id, orders.request_id, orders.attempt, orders.position
    )
    SELECT claimed.order_id, claimed.agent_id, claimed.attempt, claimed.request_id, source, user_name,
        target_type, target_id, action_name, CAST(action_args AS text), action_version, timeout_seconds
    FROM claimed JOIN commands USING (request_id) ORDER BY claimed.position""")


async def claim_orders(connection: AsyncConnection, agents: Iterable[UUID], lease_seconds: float) -> list[Claimed]:
    """Lease the orders that are due to any of `agents`, oldest first and up to 100 each, and return them.

    One statement for all of them; an order that another node is claiming is skipped, not waited for.
    """
    rows = await connection.execute(_CLAIM, {"agents": list(agents), "lease_seconds": lease_seconds})
    return [_claimed(row) for row in rows]


def _claimed(row: Sequence[Any]) -> Claimed:
    (
        order_id,
        agent_id,
        attempt,
        request_id,
        source,
        user,
        target_type,
        target_id,
        name,
        args,
        version,
        timeout,
    ) = row
    order = Order(
        document_id=str(order_id),
        request_id=str(request_id),
        order_id=str(order_id),
        source=source,
        user=user,
        target=Target(target_id, target_type),
        action=Action(name, msgspec.Raw(args), version),
        timeout=timeout,
        status="sent",
    )
    return Claimed(agent_id, attempt, order)


_RELEASE = text("""
    UPDATE orders SET attempt = orders.attempt - 1, lease_until = NULL,
        sent_at = CASE WHEN orders.attempt = 1 THEN NULL ELSE sent_at END
    FROM unnest(CAST(:order_ids AS uuid[]), CAST(:attempts AS int[])) AS claimed (order_id, attempt)
    WHERE orders.order_id = claimed.order_id AND orders.attempt = claimed.attempt""")


async def release_orders(connection: AsyncConnection, claimed: Sequence[Claimed]) -> None:
    """Take back claims whose agent was gone before the answer: as if they had not been made."""
    parameters = {
        "order_ids": [UUID(claim.order.order_id) for claim in claimed],
        "attempts": [claim.attempt for claim in claimed],
    }
    await connection.execute(_RELEASE, parameters)


_FINISH = text(f"""
    WITH reported AS (
        SELECT * FROM unnest(CAST(:order_ids AS uuid[]), CAST(:agents AS uuid[]), CAST(:statuses AS text[]),
            CAST(:codes AS int[]), CAST(:messages AS text[]), CAST(:data AS text[]))
            AS reported (order_id, agent_id, status, code, message, data)
    ), ended AS (
        DELETE FROM orders USING reported
        WHERE orders.order_id = reported.order_id AND orders.agent_id = reported.agent_id AND orders.attempt > 0
            -- An agent that was offered the order again says so this way, while its first run goes on.
            AND NOT (orders.attempt > 1 AND reported.code = {RESULT_FAILURE} AND reported.message = :duplicate)
        RETURNING orders.order_id, orders.request_id, orders.agent_id, orders.agent_groups, orders.attempt,
            orders.created_at, orders.expires_at, orders.sent_at,
            reported.status, reported.code, reported.message, CAST(reported.data AS json)
    )
    INSERT INTO finished_orders (order_id, request_id, agent_id, agent_groups, attempt, created_at, expires_at,
        sent_at, status, result_code, result_message, result_data)
    SELECT * FROM ended RETURNING order_id""")


async def finish_orders(connection: AsyncConnection, endings: Sequence[Ending]) -> set[UUID]:
    """End those of the reported orders that are open, offered and their reporter's own; return which they were."""
    parameters = {
        "order_ids": [ending.order_id for ending in endings],
        "agents": [ending.agent_id for ending in endings],
        "statuses": [ending.status for ending in endings],
        "codes": [ending.code for ending in endings],
        "messages": [ending.message for ending in endings],
        "data": [ending.data for ending in endings],
        "duplicate": DUPLICATE_ORDER_MESSAGE,
    }
    return set(await connection.scalars(_FINISH, parameters))


_EXTEND = text("""
    UPDATE orders SET lease_until = now() + make_interval(secs => :lease_seconds)
    FROM unnest(CAST(:order_ids AS uuid[]), CAST(:agents AS uuid[])) AS running (order_id, agent_id)
    WHERE orders.order_id = running.order_id AND orders.agent_id = running.agent_id AND orders.attempt > 0""")


async def extend_leases(
    connection: AsyncConnection, running: Sequence[tuple[UUID, UUID]], lease_seconds: float
) -> None:
    """Offer again later the orders (id, agent) whose agents say that they are at work on them."""
    parameters = {
        "order_ids": [order_id for order_id, _ in running],
        "agents": [agent_id for _, agent_id in running],
        "lease_seconds": lease_seconds,
    }
    await connection.execute(_EXTEND, parameters)


_FIND_OWN = text("""
    SELECT order_id, CASE WHEN attempt > 0 THEN 'sent' ELSE 'pending' END AS status FROM orders
        WHERE (order_id, agent_id) IN (SELECT * FROM unnest(CAST(:order_ids AS uuid[]), CAST(:agents AS uuid[])))
    UNION ALL
    SELECT order_id, status FROM finished_orders
        WHERE order_id = ANY(CAST(:order_ids AS uuid[]))
            AND (order_id, agent_id) IN (SELECT * FROM unnest(CAST(:order_ids AS uuid[]), CAST(:agents AS uuid[])))""")


async def find_statuses(connection: AsyncConnection, owned: Sequence[tuple[UUID, UUID]]) -> dict[UUID, str]:
    """Return the status of those of the orders (id, agent) that exist and are that agent's."""
    parameters = {
        "order_ids": [order_id for order_id, _ in owned],
        "agents": [agent_id for _, agent_id in owned],
    }
    return {row.order_id: row.status for row in await connection.execute(_FIND_OWN, parameters)}


_EXPIRE = text(f"""
    WITH expired AS (
        DELETE FROM orders WHERE order_id IN (
            SELECT order_id FROM orders WHERE expires_at <= now()
            ORDER BY expires_at LIMIT :limit FOR UPDATE SKIP LOCKED)
        RETURNING order_id, request_id, agent_id, agent_groups, attempt, created_at, expires_at, sent_at
    )
    INSERT INTO finished_orders (order_id, request_id, agent_id, agent_groups, attempt, created_at, expires_at,
        sent_at, status, result_code, result_message)
    SELECT expired.*, 'failure', {RESULT_TIMEOUT},
        CASE attempt WHEN 0 THEN 'expired before delivery' ELSE 'expired after delivery, without an answer' END
    FROM expired""")


async def expire_orders(connection: AsyncConnection, limit: int) -> int:
    """End up to `limit` orders whose time is over; return how many. Any number of nodes may do this at once."""
    return (await connection.execute(_EXPIRE, {"limit": limit})).rowcount


_CANCEL = """
    WITH cancelled AS (
        DELETE FROM orders WHERE {} = :id
        RETURNING order_id, request_id, agent_id, agent_groups, attempt, created_at, expires_at, sent_at
    )
    INSERT INTO finished_orders (order_id, request_id, agent_id, agent_groups, attempt, created_at, expires_at,
        sent_at, status, result_message)
    SELECT cancelled.*, 'cancelled',
        CASE attempt WHEN 0 THEN 'cancelled before delivery by ' ELSE 'cancelled after delivery by ' END || :user
    FROM cancelled"""
_CANCEL_ORDER = text(_CANCEL.format("order_id"))
_CANCEL_COMMAND = text(_CANCEL.format("request_id"))


async def cancel_order(connection: AsyncConnection, order_id: UUID, user: str) -> bool:
    """End an order that is open as cancelled; return whether it was open."""
    return (await connection.execute(_CANCEL_ORDER, {"id": order_id, "user": user})).rowcount == 1


async def cancel_command(connection: AsyncConnection, request_id: UUID, user: str) -> int:
    """End every open order of a command as cancelled; return how many there were."""
    return (await connection.execute(_CANCEL_COMMAND, {"id": request_id, "user": user})).rowcount


async def find_oldest_order(connection: AsyncConnection) -> UUID | None:
    """Return the id of the oldest open order, or None when none is open."""
    oldest: UUID | None = await connection.scalar(select(orders.c.order_id).order_by(orders.c.order_id).limit(1))
    return oldest


_DELETE_COMMANDS = text("""
    DELETE FROM commands WHERE request_id IN (
        -- A day later than the partitions of their orders, which end with whole days.
        SELECT request_id FROM commands WHERE expires_at < now() - make_interval(days => :days + 1)
        ORDER BY expires_at LIMIT :limit)""")


async def delete_commands(connection: AsyncConnection, older_than_days: int, limit: int) -> int:
    """Forget up to `limit` commands whose orders have been dropped by age; return how many."""
    return (await connection.execute(_DELETE_COMMANDS, {"days": older_than_days, "limit": limit})).rowcount
