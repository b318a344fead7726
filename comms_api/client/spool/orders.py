"""The orders that the agent has received, with their results."""

from collections.abc import Iterator, Mapping

import msgspec

from comms_api.client.spool.file import SpoolFile
from comms_api.protocol import OrderResult, Result

ORDERS_KEPT = 10_000

_SCHEMA = """
    CREATE TABLE IF NOT EXISTS orders (order_id TEXT PRIMARY KEY, number INTEGER, result BLOB,
        is_reported INTEGER NOT NULL DEFAULT 0);
    CREATE INDEX IF NOT EXISTS orders_by_number ON orders (number);
    CREATE INDEX IF NOT EXISTS orders_unreported ON orders (number) WHERE NOT is_reported;
"""


class OrderLog:
    """The last `ORDERS_KEPT` orders, and all older ones whose results are not acknowledged."""

    def __init__(self, file: SpoolFile) -> None:
        self._file = file
        file.connection.executescript(_SCHEMA)

    def accept(self, order_id: str) -> bool:
        """Record an order before it is executed; return whether it is new."""
        with self._file.transaction() as connection:
            added = connection.execute(
                "INSERT INTO orders (order_id, number) VALUES (?, (SELECT coalesce(max(number), 0) + 1 FROM orders))"
                " ON CONFLICT DO NOTHING",
                (order_id,),
            ).rowcount
            connection.execute(
                "DELETE FROM orders WHERE is_reported AND number <= (SELECT max(number) FROM orders) - ?",
                (ORDERS_KEPT,),
            )
            self._file.count(orders_received=1, orders_executed=added, orders_duplicate=1 - added)
        return added == 1

    def finish(self, order_id: str, result: Result) -> None:
        """Store the result of an order before it is reported."""
        self._file.connection.execute(
            "UPDATE orders SET result = ? WHERE order_id = ?", (msgspec.json.encode(result), order_id)
        )

    def report_again(self, order_id: str) -> None:
        """Have the result of an order reported again, if it has one."""
        self._file.connection.execute("UPDATE orders SET is_reported = 0 WHERE order_id = ?", (order_id,))

    def finish_interrupted(self, result: Result) -> None:
        """Give `result` to the orders that were being executed when the agent last ended."""
        self._file.connection.execute(
            "UPDATE orders SET result = ? WHERE result IS NULL", (msgspec.json.encode(result),)
        )

    def unreported(self, limit: int) -> list[OrderResult]:
        """Return the oldest results that the server has not acknowledged."""
        rows: Iterator[tuple[str, bytes]] = self._file.connection.execute(
            "SELECT order_id, result FROM orders WHERE result IS NOT NULL AND NOT is_reported ORDER BY number LIMIT ?",
            (limit,),
        )
        return [OrderResult(order_id, msgspec.json.decode(result, type=Result)) for order_id, result in rows]

    def settle(self, outcomes: Mapping[str, str]) -> None:
        """Record the server's outcomes by order id; `updated` means that this report ended the order."""
        with self._file.transaction() as connection:
            connection.executemany(
                "UPDATE orders SET is_reported = 1 WHERE order_id = ?", [(order_id,) for order_id in outcomes]
            )
            self._file.count(results_reported=sum(outcome == "updated" for outcome in outcomes.values()))
