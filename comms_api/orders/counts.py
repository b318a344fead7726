"""Count the orders of a command, and list its latest failures."""

from uuid import UUID

from sqlalchemy import func, select, text

from comms_api.database.connection import Connection
from comms_api.database.schema import finished_orders
from comms_api.orders.model import Counts, Failure, FailureGroup, RecentCounts

_COUNT = text("""
    SELECT open.pending, open.held, open.sent, ended.success + archived.success AS success,
        ended.failure + archived.failure AS failure,
        ended.cancelled + archived.cancelled AS cancelled,
        ended.rejected + archived.rejected AS rejected,
        ended.expired_before_delivery + archived.expired_before_delivery AS expired_before_delivery,
        ended.expired_after_delivery + archived.expired_after_delivery AS expired_after_delivery
    FROM (
        SELECT count(*) FILTER (WHERE attempt = 0) AS pending, count(*) FILTER (WHERE attempt > 0) AS sent,
            count(*) FILTER (WHERE attempt = 0 AND offer_at = 'infinity') AS held
        FROM orders WHERE request_id = :id
    ) AS open, (
        SELECT count(*) FILTER (WHERE status = 'success') AS success,
            count(*) FILTER (WHERE status = 'failure') AS failure,
            count(*) FILTER (WHERE status = 'cancelled') AS cancelled,
            count(*) FILTER (WHERE outcome = 'rejected') AS rejected,
            count(*) FILTER (WHERE outcome = 'expired_before_delivery') AS expired_before_delivery,
            count(*) FILTER (WHERE outcome = 'expired_after_delivery') AS expired_after_delivery
        FROM finished_orders WHERE request_id = :id
    ) AS ended, (
        SELECT coalesce(sum(success), 0) AS success, coalesce(sum(failure), 0) AS failure,
            coalesce(sum(cancelled), 0) AS cancelled, coalesce(sum(rejected), 0) AS rejected,
            coalesce(sum(expired_before_delivery), 0) AS expired_before_delivery,
            coalesce(sum(expired_after_delivery), 0) AS expired_after_delivery
        FROM archived_orders WHERE request_id = :id
    ) AS archived""")


async def count_orders(connection: Connection, request_id: UUID) -> Counts:
    """Return how many orders of a command are in each status; one statement counts a moving order once."""
    [row] = await connection.execute(_COUNT, {"id": request_id})
    total = row.pending + row.sent + row.success + row.failure + row.cancelled
    failed = row.failure - row.rejected - row.expired_before_delivery - row.expired_after_delivery
    return Counts(total, **row, failed=failed)


_COUNT_RECENT = text("""
    SELECT * FROM (
        SELECT count(*) FILTER (WHERE attempt = 0) AS pending, count(*) FILTER (WHERE attempt > 0) AS sent
        FROM (SELECT attempt FROM orders LIMIT :limit) AS open
    ) AS open, (
        SELECT count(*) FILTER (WHERE status = 'success') AS success,
            count(*) FILTER (WHERE status = 'failure') AS failure,
            count(*) FILTER (WHERE status = 'cancelled') AS cancelled
        FROM (
            SELECT status FROM finished_orders WHERE order_id >= :oldest ORDER BY order_id DESC LIMIT :limit
        ) AS ended
    ) AS ended""")


async def count_recent(connection: Connection, oldest: UUID, limit: int) -> RecentCounts:
    """Return the number of open orders, and of ended orders from the id `oldest` on; at most `limit` each."""
    [row] = await connection.execute(_COUNT_RECENT, {"oldest": oldest, "limit": limit})
    return RecentCounts(limit, **row)


async def list_failures(connection: Connection, request_id: UUID, limit: int) -> list[Failure]:
    """Return the latest failures of a command that are not archived, newest first."""
    table = finished_orders.c
    statement = (
        select(
            table.order_id,
            table.agent_id,
            func.coalesce(table.outcome, "failed"),
            table.result_code,
            table.result_message,
            table.finished_at,
        )
        .where(table.request_id == request_id, table.status == "failure")
        .order_by(table.finished_at.desc())
        .limit(limit)
    )
    return [Failure(*row) for row in await connection.execute(statement)]


GROUPED_MAXIMUM = 10_000
"""The maximum number of failures of a command that are grouped by message."""

_GROUP_FAILURES = text(f"""
    SELECT outcome, code, message, count(*) AS orders, (array_agg(agent_id))[1:3] AS agents FROM (
        SELECT coalesce(outcome, 'failed') AS outcome, result_code AS code,
            left(coalesce(result_message, ''), 200) AS message, agent_id
        FROM finished_orders WHERE request_id = :id AND status = 'failure' LIMIT {GROUPED_MAXIMUM}
    ) AS failures GROUP BY outcome, code, message ORDER BY orders DESC, outcome, message LIMIT :limit""")


async def group_failures(connection: Connection, request_id: UUID, limit: int) -> list[FailureGroup]:
    """Return the most frequent failures of a command, by the beginning of their message; no archived ones."""
    rows = await connection.execute(_GROUP_FAILURES, {"id": request_id, "limit": limit})
    return [FailureGroup(*row) for row in rows]


_COUNT_LATELY = text("""
    SELECT count(*) FROM finished_orders
    WHERE request_id = :id AND finished_at > now() - make_interval(secs => :seconds)""")


async def count_lately(connection: Connection, request_id: UUID, seconds: float) -> int:
    """Return how many orders of a command have ended within the last `seconds`."""
    ended: int = await connection.scalar(_COUNT_LATELY, {"id": request_id, "seconds": seconds})
    return ended
