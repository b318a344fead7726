"""SQL statements about the metrics of the whole fleet; each reads a bounded number of rows."""

import msgspec
from sqlalchemy import text

from comms_api.database.connection import Connection

SAMPLE_ROWS = 20_000


class OpenOrders(msgspec.Struct, frozen=True):
    """The orders that have not ended: how many were not offered yet, how many were, and the age of the oldest."""

    pending: float
    sent: float
    oldest_seconds: float


# The table's own estimate counts all rows; a sample says which share of them was offered.
_OPEN_ORDERS = text(f"""
    SELECT count(*) FILTER (WHERE attempt = 0) AS pending, count(*) AS sampled,
        (SELECT reltuples FROM pg_class WHERE oid = 'orders'::regclass) AS estimated,
        (SELECT coalesce(extract(epoch FROM now() - created_at), 0)
         FROM orders ORDER BY order_id LIMIT 1) AS oldest_seconds
    FROM (SELECT attempt FROM orders LIMIT {SAMPLE_ROWS}) AS sample""")


async def find_open_orders(connection: Connection) -> OpenOrders:
    """Return the open orders of the fleet: exact up to `SAMPLE_ROWS`, and an estimate beyond that."""
    row = await connection.first(_OPEN_ORDERS)
    if row is None or not row.sampled:
        return OpenOrders(0, 0, 0)
    total = row.sampled if row.sampled < SAMPLE_ROWS else max(row.sampled, float(row.estimated))
    pending = total * row.pending / row.sampled
    return OpenOrders(pending, total - pending, float(row.oldest_seconds or 0))
