"""The statements by which agents get their orders: claim, release, extend.

A claimed order is leased: it is offered again when its `offer_at` has come and it has not ended.
"""

from collections.abc import Iterable, Sequence
from uuid import UUID

import msgspec
from sqlalchemy import text

from comms_api.database.connection import Connection, Row
from comms_api.orders.model import Claimed
from comms_api.orders.targets import wire_target
from comms_api.orders.transitions import LOCK
from comms_api.orders.turns import share_turns
from comms_api.protocol import Action, Order

ANSWER_ORDERS_MAXIMUM = 1_000
ANSWER_BYTES_MAXIMUM = 4 * 2**20
"""Real agents refuse an answer above 8 MB; the order that crosses this bound still goes with it."""

_CLAIM = text(f"""
    WITH due AS (
        SELECT fitting.order_id FROM unnest(CAST(:agents AS uuid[])) AS waiting (agent_id) CROSS JOIN LATERAL (
            SELECT order_id, sum(bytes) OVER (ORDER BY priority DESC, position) - bytes AS bytes_before FROM (
                SELECT order_id, priority, position, bytes FROM orders
                WHERE orders.agent_id = waiting.agent_id AND offer_at <= now() AND expires_at > now()
                ORDER BY priority DESC, position LIMIT {ANSWER_ORDERS_MAXIMUM} FOR UPDATE SKIP LOCKED
            ) AS open
        ) AS fitting WHERE bytes_before < {ANSWER_BYTES_MAXIMUM}
    ), claimed AS (
        UPDATE orders SET attempt = attempt + 1, sent_at = coalesce(sent_at, now()),
            offer_at = now() + make_interval(secs => :lease_seconds)
        -- An array, and not a join: so the planner goes by the primary key, however large it takes `due` to be.
        WHERE orders.order_id = ANY(ARRAY(SELECT order_id FROM due))
        RETURNING orders.order_id, orders.agent_id, orders.request_id, orders.attempt, orders.position,
            orders.priority
    )
    SELECT claimed.order_id, claimed.agent_id, claimed.attempt, claimed.request_id, source, user_name,
        target_type, target_ids, action_name, CAST(action_args AS text), action_version, timeout_seconds
    FROM claimed JOIN commands USING (request_id) ORDER BY claimed.priority DESC, claimed.position""")


async def claim_orders(connection: Connection, agents: Iterable[UUID], lease_seconds: float) -> list[Claimed]:
    """Lease the orders that are due to any of `agents`, and return them: the most urgent first, then the oldest.

    An agent gets all of its orders, unless they would make an answer that real agents refuse for its size.

    One statement for all of them; an order that another node is claiming is skipped, not waited for.
    """
    rows = await connection.execute(_CLAIM, {"agents": list(agents), "lease_seconds": lease_seconds})
    return [_claimed(row) for row in rows]


def _claimed(row: Row) -> Claimed:
    (
        order_id,
        agent_id,
        attempt,
        request_id,
        source,
        user,
        target_type,
        target_ids,
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
        target=wire_target(target_type, target_ids, agent_id),
        action=Action(name, msgspec.Raw(args), version),
        timeout=timeout,
        status="sent",
    )
    return Claimed(agent_id, attempt, order)


_RELEASE = text(f"""
    WITH claimed AS (
        SELECT * FROM unnest(CAST(:order_ids AS uuid[]), CAST(:attempts AS int[])) AS claimed (order_id, attempt)
    ), locked AS MATERIALIZED ({LOCK.format("JOIN claimed USING (order_id, attempt)")}
    )
    UPDATE orders SET attempt = attempt - 1, sent_at = CASE WHEN attempt = 1 THEN NULL ELSE sent_at END,
        -- Its command may have been paused or stopped meanwhile, and then it is held like the rest.
        offer_at = CASE WHEN attempt = 1 AND phase IN ('paused', 'stopped') THEN 'infinity' ELSE now() END,
        expires_at = CASE WHEN attempt = 1 AND phase IN ('paused', 'stopped') THEN greatest(
            orders.expires_at, commands.expires_at) ELSE orders.expires_at END
    FROM locked, commands
    WHERE orders.order_id = locked.order_id AND commands.request_id = orders.request_id""")


async def release_orders(connection: Connection, claimed: Sequence[Claimed]) -> None:
    """Undo claims whose agent was gone before the answer, in one transaction.

    An order that thereby was never offered is held if its command is, so the phase must not change meanwhile.
    """
    if first := {UUID(claim.order.request_id) for claim in claimed if claim.attempt == 1}:
        await share_turns(connection, first)
    parameters = {
        "order_ids": [UUID(claim.order.order_id) for claim in claimed],
        "attempts": [claim.attempt for claim in claimed],
    }
    await connection.execute(_RELEASE, parameters)


_EXTEND = text(f"""
    WITH running AS (
        SELECT * FROM unnest(CAST(:order_ids AS uuid[]), CAST(:agents AS uuid[])) AS running (order_id, agent_id)
    ), locked AS MATERIALIZED ({LOCK.format("JOIN running USING (order_id, agent_id)")}
    )
    UPDATE orders SET offer_at = now() + make_interval(secs => :lease_seconds)
    FROM locked WHERE orders.order_id = locked.order_id AND orders.attempt > 0""")


async def extend_leases(connection: Connection, running: Sequence[tuple[UUID, UUID]], lease_seconds: float) -> None:
    """Offer again later the orders (id, agent) whose agents say that they are at work on them."""
    parameters = {
        "order_ids": [order_id for order_id, _ in running],
        "agents": [agent_id for _, agent_id in running],
        "lease_seconds": lease_seconds,
    }
    await connection.execute(_EXTEND, parameters)
