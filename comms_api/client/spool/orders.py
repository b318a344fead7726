"""The orders that the agent has received, with their results."""

import sqlite3
import time
from collections.abc import Iterator, Mapping

import msgspec

from comms_api.client.spool.file import SpoolFile
from comms_api.protocol import OrderResult, Result

ORDERS_KEPT = 10_000
_FORGOTTEN_UNTIL = "nonces_forgotten_until"

_SCHEMA = """
    CREATE TABLE IF NOT EXISTS orders (order_id TEXT PRIMARY KEY, number INTEGER, result BLOB,
        is_reported INTEGER NOT NULL DEFAULT 0);
    CREATE INDEX IF NOT EXISTS orders_by_number ON orders (number);
    CREATE INDEX IF NOT EXISTS orders_unreported ON orders (number) WHERE NOT is_reported;
    CREATE TABLE IF NOT EXISTS nonces (nonce TEXT PRIMARY KEY, order_id TEXT NOT NULL, expires_at REAL NOT NULL,
        result BLOB);
    CREATE INDEX IF NOT EXISTS nonces_by_expiry ON nonces (expires_at);
    CREATE INDEX IF NOT EXISTS nonces_by_order ON nonces (order_id);
    CREATE TABLE IF NOT EXISTS repeated_orders (order_id TEXT PRIMARY KEY, first_id TEXT NOT NULL);
    CREATE INDEX IF NOT EXISTS repeated_orders_by_first ON repeated_orders (first_id);
"""


class OrderLog:
    """The last `ORDERS_KEPT` orders, and all older ones whose results are not acknowledged."""

    def __init__(self, file: SpoolFile) -> None:
        self._file = file
        file.connection.executescript(_SCHEMA)

    def accept(self, order_id: str, nonce: str | None = None, expires_at: float = 0.0) -> bool:
        """Record an order before it is executed; return whether it is new.

        An order with a known nonce is not new: it gets the result of the first order with that nonce.
        """
        with self._file.transaction() as connection:
            added = connection.execute(
                "INSERT INTO orders (order_id, number) VALUES (?, (SELECT coalesce(max(number), 0) + 1 FROM orders))"
                " ON CONFLICT DO NOTHING",
                (order_id,),
            ).rowcount
            is_new = added == 1 and (nonce is None or _use_nonce(connection, order_id, nonce, expires_at))
            self._forget(connection)
            self._file.count(orders_received=1, orders_executed=int(is_new), orders_duplicate=int(not is_new))
        return is_new

    def _forget(self, connection: sqlite3.Connection) -> None:
        """Delete old orders, and nonces of expired orders; remember until when nonces are forgotten."""
        connection.execute(
            "DELETE FROM orders WHERE is_reported AND number <= (SELECT max(number) FROM orders) - ?", (ORDERS_KEPT,)
        )
        connection.execute("DELETE FROM repeated_orders WHERE order_id NOT IN (SELECT order_id FROM orders)")
        expired = "FROM nonces WHERE expires_at < ?", (time.time(),)
        [latest] = connection.execute(f"SELECT max(expires_at) {expired[0]}", expired[1]).fetchone()
        if latest is not None:
            connection.execute(f"DELETE {expired[0]}", expired[1])
            self._file.remember(_FORGOTTEN_UNTIL, latest)

    def has_forgotten(self, expires_at: float) -> bool:
        """Return whether the nonce of an order with this expiry may be deleted, in case the clock was set back."""
        fact = self._file.find_fact(_FORGOTTEN_UNTIL)
        return fact is not None and expires_at <= msgspec.json.decode(fact, type=float)

    def finish(self, order_id: str, result: Result) -> None:
        """Store the result of an order before it is reported, also for orders that repeat it."""
        encoded = msgspec.json.encode(result)
        with self._file.transaction() as connection:
            connection.execute(
                "UPDATE orders SET result = ? WHERE order_id = ?"
                " OR order_id IN (SELECT order_id FROM repeated_orders WHERE first_id = ?)",
                (encoded, order_id, order_id),
            )
            connection.execute("UPDATE nonces SET result = ? WHERE order_id = ?", (encoded, order_id))

    def report_again(self, order_id: str) -> None:
        """Have the result of an order reported again, if it has one."""
        self._file.connection.execute("UPDATE orders SET is_reported = 0 WHERE order_id = ?", (order_id,))

    def finish_interrupted(self, result: Result) -> None:
        """Give `result` to the orders that were being executed when the agent last ended."""
        encoded = (msgspec.json.encode(result),)
        with self._file.transaction() as connection:
            connection.execute("UPDATE orders SET result = ? WHERE result IS NULL", encoded)
            connection.execute("UPDATE nonces SET result = ? WHERE result IS NULL", encoded)

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


def _use_nonce(connection: sqlite3.Connection, order_id: str, nonce: str, expires_at: float) -> bool:
    """Record the first use of a nonce; for a later use, give the order the first one's result and return False."""
    used = connection.execute(
        "INSERT INTO nonces (nonce, order_id, expires_at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        (nonce, order_id, expires_at),
    ).rowcount
    if used:
        return True
    connection.execute(
        "INSERT INTO repeated_orders (order_id, first_id) SELECT ?, order_id FROM nonces WHERE nonce = ?",
        (order_id, nonce),
    )
    connection.execute(
        "UPDATE orders SET result = (SELECT result FROM nonces WHERE nonce = ?) WHERE order_id = ?", (nonce, order_id)
    )
    return False
