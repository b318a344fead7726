"""Collected lines that wait to be sent, oldest first and bounded in bytes."""

import sqlite3
from collections.abc import Callable, Sequence

from comms_api.client.spool.batches import (
    BATCH_BYTES_MAXIMUM,
    BATCH_ITEMS_MAXIMUM,
    OpenBatch,
    OpenBatches,
    within_bytes,
)
from comms_api.client.spool.file import SpoolFile
from comms_api.client.spool.model import FilePosition, Line
from comms_api.client.spool.positions import FilePositions
from comms_api.protocol import AgentMetadata

_OPEN_BATCH = "open batch of lines"

_SCHEMA = """
    CREATE TABLE IF NOT EXISTS lines (number INTEGER PRIMARY KEY AUTOINCREMENT,
        module TEXT NOT NULL, collector TEXT NOT NULL, event BLOB NOT NULL);
"""


class LineQueue:
    """Lines in the order of their collection.

    The lines of the current batch are in flight: they are kept until they are settled, and count against no limit. If
    the waiting lines exceed `bytes_maximum`, the oldest of them are dropped and counted.
    """

    def __init__(self, file: SpoolFile, positions: FilePositions, bytes_maximum: int) -> None:
        self.bytes_maximum = bytes_maximum
        self._file = file
        self._positions = positions
        file.connection.executescript(_SCHEMA)
        self._batches = OpenBatches(file, _OPEN_BATCH)
        batch = self._batches.find()
        self._in_flight = batch.last if batch else 0
        """The number of the last line in flight, or 0."""
        self._waiting, self._waiting_bytes = self._count_waiting()

    @property
    def waiting_bytes(self) -> int:
        """The size of the waiting lines, without the batch in flight."""
        return self._waiting_bytes

    def has_full_batch(self) -> bool:
        """Return whether the waiting lines fill a batch."""
        return self._waiting_bytes >= BATCH_BYTES_MAXIMUM or self._waiting >= BATCH_ITEMS_MAXIMUM

    def _count_waiting(self) -> tuple[int, int]:
        count, size = self._file.connection.execute(
            "SELECT count(*), coalesce(sum(length(event)), 0) FROM lines WHERE number > ?", (self._in_flight,)
        ).fetchone()
        return int(count), int(size)

    def add(self, position: FilePosition, lines: Sequence[Line]) -> None:
        """Store lines of a file together with the position up to which the file was read."""
        try:
            with self._file.transaction() as connection:
                connection.executemany(
                    "INSERT INTO lines (module, collector, event) VALUES (?, ?, ?)",
                    [(line.module, line.collector, line.event) for line in lines],
                )
                self._positions.put(position)
                self._waiting += len(lines)
                self._waiting_bytes += sum(len(line.event) for line in lines)
                self._file.count(events_collected=len(lines), events_dropped=self._drop_oldest(connection))
        except BaseException:
            self._waiting, self._waiting_bytes = self._count_waiting()
            raise

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

    def next_batch(self, items: int, bytes_maximum: int = BATCH_BYTES_MAXIMUM) -> list[Line]:
        """Return the lines of the open batch or, without one, the oldest lines; they are in flight from now on."""
        batch = self._lines_of(self._batches.find())
        if not batch:
            rows = self._file.connection.execute("SELECT * FROM lines ORDER BY number LIMIT ?", (items,))
            lines = [Line(*row) for row in rows]
            batch = lines[: within_bytes([len(line.event) for line in lines], bytes_maximum)]
        self._in_flight = batch[-1].number if batch else 0
        self._waiting, self._waiting_bytes = self._count_waiting()
        return batch

    def _lines_of(self, batch: OpenBatch | None) -> list[Line]:
        if batch is None:
            return []
        rows = self._file.connection.execute("SELECT * FROM lines WHERE number <= ? ORDER BY number", (batch.last,))
        return [Line(*row) for row in rows]

    def open_batch(self, lines: Sequence[Line], metadata: Callable[[], AgentMetadata]) -> OpenBatch:
        """Return the open batch, or open one with these lines; `metadata` describes the agent in a new batch."""
        batch = self._batches.find()
        if batch is None or batch.last != lines[-1].number:
            batch = self._batches.open(lines[-1].number, metadata())
        return batch

    def close_batch(self) -> None:
        """Close the open batch: its lines are sent under a new key."""
        self._batches.close()

    def settle(self, batch: Sequence[Line], *, sent: bool) -> None:
        """Delete lines that the server has stored (`sent`) or will never accept, and close their batch."""
        with self._file.transaction() as connection:
            settled = connection.execute(
                "DELETE FROM lines WHERE number BETWEEN ? AND ?", (batch[0].number, batch[-1].number)
            )
            self._batches.close()
            self._file.count(**{"events_sent" if sent else "events_dropped": settled.rowcount})
