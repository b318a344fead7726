"""What the agent must not forget, in one SQLite file that survives a crash at any moment.

Every method is one transaction. Collected data and the mark of how far collection has come move together, and so do
the deletion of what was acknowledged and its count: after a crash nothing is missing, and at most the batch that was
on its way is sent again.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from comms_api.client.spool.batches import BATCH_BYTES_MAXIMUM, BATCH_ITEMS_MAXIMUM, HEADER_BYTES, within_bytes
from comms_api.client.spool.model import Change, Identity, Line, Place, Statistics
from comms_api.client.spool.positions import PLACES_SCHEMA, Places
from comms_api.protocol import OrderResult, Result

ORDERS_KEPT = 10_000
_SEQUENCE = "batch sequence"

_SCHEMA = """
    CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value BLOB NOT NULL);
    CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
    CREATE TABLE IF NOT EXISTS lines (number INTEGER PRIMARY KEY AUTOINCREMENT,
        module TEXT NOT NULL, collector TEXT NOT NULL, event BLOB NOT NULL);
    CREATE TABLE IF NOT EXISTS changes (number INTEGER PRIMARY KEY AUTOINCREMENT,
        module TEXT NOT NULL, collector TEXT NOT NULL, id TEXT NOT NULL, operation TEXT NOT NULL, data BLOB);
    CREATE TABLE IF NOT EXISTS known (module TEXT, collector TEXT, id TEXT, hash BLOB NOT NULL,
        PRIMARY KEY (module, collector, id)) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS orders (order_id TEXT PRIMARY KEY, number INTEGER, result BLOB,
        is_reported INTEGER NOT NULL DEFAULT 0);
    CREATE INDEX IF NOT EXISTS orders_by_number ON orders (number);
    CREATE INDEX IF NOT EXISTS orders_unreported ON orders (number) WHERE NOT is_reported;
"""


class Spool:
    """The agent's memory. Used from one thread; each call takes a few milliseconds at most."""

    def __init__(self, path: Path, bytes_maximum: int) -> None:
        """Open or make the file, readable by its owner alone."""
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
        self.bytes_maximum = bytes_maximum
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")  # what was promised to be kept is on the disk
        self._connection.executescript(_SCHEMA + PLACES_SCHEMA)
        self.places = Places(self._connection)
        self._in_flight = 0
        """The number of the last line of the batch that is on its way: such lines are not dropped."""
        self._waiting, self._waiting_bytes = self._count_waiting()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield self._connection
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:  # SQLite rolls back itself when the disk is full
                self._connection.execute("ROLLBACK")
            self._waiting, self._waiting_bytes = self._count_waiting()
            raise

    # -- facts and counts

    def find_identity(self) -> Identity | None:
        """Return who the agent is, or None before it has chosen."""
        fact = self.find_fact("identity")
        return None if fact is None else msgspec.json.decode(fact, type=Identity)

    def find_fact(self, name: str) -> bytes | None:
        """Return a remembered fact."""
        row = self._connection.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else bytes(row[0])

    def remember(self, name: str, value: object) -> None:
        """Remember a fact, as JSON."""
        self._connection.execute(
            "INSERT OR REPLACE INTO facts (name, value) VALUES (?, ?)", (name, msgspec.json.encode(value))
        )

    def count(self, **amounts: int) -> None:
        """Add to counters, in the transaction that is open, if one is."""
        self._connection.executemany(
            "INSERT INTO counters VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
            amounts.items(),
        )

    def statistics(self) -> Statistics:
        """Return all counters."""
        return Statistics(**dict(self._connection.execute("SELECT name, value FROM counters")))

    # -- stateless events

    @property
    def waiting_bytes(self) -> int:
        """How much waits, without the batch that is on its way."""
        return self._waiting_bytes

    def has_full_batch(self) -> bool:
        """Return whether so much waits that a batch need not wait longer."""
        return self._waiting_bytes >= BATCH_BYTES_MAXIMUM or self._waiting >= BATCH_ITEMS_MAXIMUM

    def _count_waiting(self) -> tuple[int, int]:
        count, size = self._connection.execute(
            "SELECT count(*), coalesce(sum(length(event)), 0) FROM lines WHERE number > ?", (self._in_flight,)
        ).fetchone()
        return int(count), int(size)

    def add_lines(self, place: Place, events: Sequence[Line]) -> None:
        """Keep what was read of a file, and how far; beyond the bound the oldest lines are dropped, and counted."""
        with self._transaction() as connection:
            connection.executemany(
                "INSERT INTO lines (module, collector, event) VALUES (?, ?, ?)",
                [(line.module, line.collector, line.event) for line in events],
            )
            self.places.put(place)
            self._waiting += len(events)
            self._waiting_bytes += sum(len(line.event) for line in events)
            self.count(events_collected=len(events), events_dropped=self._drop_oldest(connection))

    def _drop_oldest(self, connection: sqlite3.Connection) -> int:
        surplus = self._waiting_bytes - self.bytes_maximum
        if surplus <= 0:
            return 0
        last = self._in_flight
        waiting = connection.execute(
            "SELECT number, length(event) FROM lines WHERE number > ? ORDER BY number", (self._in_flight,)
        )
        while surplus > 0:
            last, size = waiting.fetchone()
            surplus -= size
        waiting.close()
        dropped = connection.execute("DELETE FROM lines WHERE number > ? AND number <= ?", (self._in_flight, last))
        self._waiting, self._waiting_bytes = self._waiting - dropped.rowcount, self.bytes_maximum + surplus
        return dropped.rowcount

    def next_lines(self, items: int, bytes_maximum: int = BATCH_BYTES_MAXIMUM) -> list[Line]:
        """Return the oldest lines, which now are on their way: they are kept until they are settled."""
        rows = self._connection.execute("SELECT * FROM lines ORDER BY number LIMIT ?", (items,))
        lines = [Line(*row) for row in rows]
        batch = lines[: within_bytes([len(line.event) for line in lines], bytes_maximum)]
        self._in_flight = batch[-1].number if batch else 0
        self._waiting, self._waiting_bytes = self._count_waiting()
        return batch

    def settle_lines(self, lines: Sequence[Line], *, sent: bool) -> None:
        """Forget lines that the server has stored, or that it never will."""
        with self._transaction() as connection:
            settled = connection.execute(
                "DELETE FROM lines WHERE number BETWEEN ? AND ?", (lines[0].number, lines[-1].number)
            )
            self.count(**{"events_sent" if sent else "events_dropped": settled.rowcount})

    # -- stateful changes

    def known(self, module: str, collector: str) -> dict[str, bytes]:
        """Return the ids of the states that the server knows or will, each with the hash of its document."""
        rows = self._connection.execute(
            "SELECT id, hash FROM known WHERE module = ? AND collector = ?", (module, collector)
        )
        return dict(rows.fetchall())

    def add_changes(self, changes: Iterable[tuple[Change, bytes]]) -> None:
        """Keep changes, each with the hash of its document (empty for a delete)."""
        with self._transaction() as connection:
            for change, digest in changes:
                self._add_change(connection, change)
                key = (change.module, change.collector, change.id)
                if change.data is None:
                    connection.execute("DELETE FROM known WHERE (module, collector, id) = (?, ?, ?)", key)
                else:
                    connection.execute("INSERT OR REPLACE INTO known VALUES (?, ?, ?, ?)", (*key, digest))
                self.count(states_collected=1)

    def _add_change(self, connection: sqlite3.Connection, change: Change) -> None:
        connection.execute(
            "INSERT INTO changes (module, collector, id, operation, data) VALUES (?, ?, ?, ?, ?)",
            (change.module, change.collector, change.id, change.operation, change.data),
        )

    def next_changes(self, items: int, bytes_maximum: int = BATCH_BYTES_MAXIMUM) -> list[Change]:
        """Return the oldest changes."""
        rows = self._connection.execute(
            "SELECT module, collector, id, operation, data, number FROM changes ORDER BY number LIMIT ?", (items,)
        )
        changes = [Change(*row) for row in rows]
        return changes[: within_bytes([len(change.data or b"") + HEADER_BYTES for change in changes], bytes_maximum)]

    def next_sequence(self) -> int:
        """Return the number of the next stateful batch, higher than all before it, even after a crash."""
        number = int(self.find_fact(_SEQUENCE) or 0) + 1
        self.remember(_SEQUENCE, number)
        return number

    def skip_sequences(self, latest: int) -> None:
        """Continue the numbers after one that the server has applied."""
        self.remember(_SEQUENCE, latest)

    def start_states_over(self, latest: int) -> None:
        """Do the same, and forget the known states and unsent changes; deletions are still sent."""
        with self._transaction() as connection:
            self.skip_sequences(latest)
            connection.execute("DELETE FROM known")
            dropped = connection.execute("DELETE FROM changes WHERE operation <> 'delete'").rowcount
            self.count(states_refused=dropped)

    def settle_changes(self, settled: Sequence[Change], refused: int, again: Sequence[Change]) -> None:
        """Forget changes that were answered; `refused` will never be taken, `again` are sent in another form."""
        with self._transaction() as connection:
            connection.executemany("DELETE FROM changes WHERE number = ?", [(change.number,) for change in settled])
            for change in again:
                self._add_change(connection, change)
            self.count(states_sent=len(settled) - refused - len(again), states_refused=refused)

    # -- orders

    def accept_order(self, order_id: str) -> bool:
        """Remember an order before it is executed; return whether it is a new one."""
        with self._transaction() as connection:
            added = connection.execute(
                "INSERT INTO orders (order_id, number) VALUES (?, (SELECT coalesce(max(number), 0) + 1 FROM orders))"
                " ON CONFLICT DO NOTHING",
                (order_id,),
            ).rowcount
            connection.execute(
                "DELETE FROM orders WHERE is_reported AND number <= (SELECT max(number) FROM orders) - ?",
                (ORDERS_KEPT,),
            )
            self.count(orders_received=1, orders_executed=added, orders_duplicate=1 - added)
        return added == 1

    def finish_order(self, order_id: str, result: Result) -> None:
        """Remember an order's result before it is reported."""
        self._connection.execute(
            "UPDATE orders SET result = ? WHERE order_id = ?", (msgspec.json.encode(result), order_id)
        )

    def report_again(self, order_id: str) -> None:
        """Ask for the result of an order that was offered again to be reported again, if it has one."""
        self._connection.execute("UPDATE orders SET is_reported = 0 WHERE order_id = ?", (order_id,))

    def abandon_orders(self, result: Result) -> None:
        """Give `result` to the orders that were being executed when the agent ended."""
        self._connection.execute("UPDATE orders SET result = ? WHERE result IS NULL", (msgspec.json.encode(result),))

    def unreported(self, limit: int) -> list[OrderResult]:
        """Return results that the server has not acknowledged."""
        rows: Iterator[tuple[str, bytes]] = self._connection.execute(
            "SELECT order_id, result FROM orders WHERE result IS NOT NULL AND NOT is_reported ORDER BY number LIMIT ?",
            (limit,),
        )
        return [OrderResult(order_id, msgspec.json.decode(result, type=Result)) for order_id, result in rows]

    def settle_results(self, outcomes: Mapping[str, str]) -> None:
        """Note that the server has answered these reports; those it says `updated` for were the first."""
        with self._transaction() as connection:
            connection.executemany(
                "UPDATE orders SET is_reported = 1 WHERE order_id = ?", [(order_id,) for order_id in outcomes]
            )
            self.count(results_reported=sum(outcome == "updated" for outcome in outcomes.values()))
