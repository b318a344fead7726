"""The statements that claim orders for agents, release them and extend their leases.

A claimed order is leased until `offer_at`. If it has not ended by then, it is offered again.
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
from comms_api.protocol import Action, Order, Signed

ANSWER_ORDERS_MAXIMUM = 1_000
ANSWER_BYTES_MAXIMUM = 4 * 2**20
"""Real agents refuse an answer above 8 MB. An answer ends with the order that exceeds this bound."""

_SIGNED = msgspec.json.Decoder(Signed)

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
        -- With an array instead of a join, the planner uses the primary key whatever its estimate for `due` is.
        WHERE orders.order_id = ANY(ARRAY(SELECT order_id FROM due))
        RETURNING orders.order_id, orders.agent_id, orders.request_id, orders.attempt, orders.position,
            orders.priority
    )
    SELECT claimed.order_id, claimed.agent_id, claimed.attempt, claimed.request_id, source, user_name,
        target_type, target_ids, action_name, CAST(action_args AS text), action_version, timeout_seconds,
        CAST(signed AS text), traceparent
    FROM claimed JOIN commands USING (request_id) ORDER BY claimed.priority DESC, claimed.position""")


async def claim_orders(connection: Connection, agents: Iterable[UUID], lease_seconds: float) -> list[Claimed]:
    """Lease the due orders of `agents`, and return them: the most urgent first, then the oldest.

    An agent gets all of its due orders, up to the size of an answer that real agents accept. One statement serves all
    agents; it skips orders that another node is claiming and does not wait for them.
    """
    rows = await connection.execute(_CLAIM, {"agents": list(agents), "lease_seconds": lease_seconds})
    return [_claimed(row) for row in rows]


def _claimed(row: Row) -> Claimed:
    order_id, agent_id, attempt, request_id, source, user, target_type, target_ids, *details = row
    name, args, version, timeout, signed, traceparent = details
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
        signed=None if signed is None else _SIGNED.decode(signed),
    )
    return Claimed(agent_id, attempt, order, traceparent)


_RELEASE = text(f"""
    WITH claimed AS (
        SELECT * FROM unnest(CAST(:order_ids AS uuid[]), CAST(:attempts AS int[])) AS claimed (order_id, attempt)
    ), locked AS MATERIALIZED ({LOCK.format("JOIN claimed USING (order_id, attempt)")}
    )
    UPDATE orders SET attempt = attempt - 1, sent_at = CASE WHEN attempt = 1 THEN NULL ELSE sent_at END,
        -- If its command has been paused or stopped since the claim, the order is held like the command's other orders.
        offer_at = CASE WHEN attempt = 1 AND phase IN ('paused', 'stopped') THEN 'infinity' ELSE now() END,
        expires_at = CASE WHEN attempt = 1 AND phase IN ('paused', 'stopped') THEN greatest(
            orders.expires_at, commands.expires_at) ELSE orders.expires_at END
    FROM locked, commands
    WHERE orders.order_id = locked.order_id AND commands.request_id = orders.request_id""")


async def release_orders(connection: Connection, claimed: Sequence[Claimed]) -> None:
    """Undo claims whose agent disconnected before the answer, in one transaction.

    An order that was claimed for the first time counts as never offered, and is held if its command is paused or
    stopped. So the phase of the command must not change during this.
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
    """Extend the leases of orders (id, agent) whose agents report that they are still working on them."""
    parameters = {
        "order_ids": [order_id for order_id, _ in running],
        "agents": [agent_id for _, agent_id in running],
        "lease_seconds": lease_seconds,
    }
    await connection.execute(_EXTEND, parameters)
