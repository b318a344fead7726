"""SQL statements about the metrics of the whole fleet; each reads a bounded number of pages."""

import msgspec
from sqlalchemy import text

from comms_api.database.connection import Connection

SAMPLE_PAGES = 1_000


class OpenOrders(msgspec.Struct, frozen=True):
    """The orders that have not ended: how many were not offered yet, how many were, and the age of the oldest."""

    pending: float
    sent: float
    oldest_seconds: float


# The current size of the table makes the estimate right even if the table has just grown, shrunk or become sparse.
_SHARE = f"least(1, {SAMPLE_PAGES} * current_setting('block_size')::float / greatest(1, pg_relation_size('orders')))"
_OPEN_ORDERS = text(f"""
    SELECT count(*) FILTER (WHERE attempt = 0) / {_SHARE}, count(*) FILTER (WHERE attempt > 0) / {_SHARE},
        coalesce((SELECT extract(epoch FROM now() - created_at) FROM orders ORDER BY order_id LIMIT 1), 0)
    FROM orders TABLESAMPLE SYSTEM (100 * {_SHARE})""")


async def find_open_orders(connection: Connection) -> OpenOrders:
    """Return the open orders of the fleet: exact if the table has `SAMPLE_PAGES` pages, and an estimate beyond that."""
    [(pending, sent, oldest_seconds)] = await connection.execute(_OPEN_ORDERS)
    return OpenOrders(round(pending), round(sent), max(0.0, float(oldest_seconds)))
