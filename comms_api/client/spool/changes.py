"""Changes of states that wait to be sent, and the states that the server knows."""

import sqlite3
from collections.abc import Callable, Iterable, Sequence

from comms_api.client.spool.batches import BATCH_BYTES_MAXIMUM, HEADER_BYTES, OpenBatch, OpenBatches, within_bytes
from comms_api.client.spool.file import SpoolFile
from comms_api.client.spool.model import Change
from comms_api.protocol import AgentMetadata

_OPEN_BATCH = "open batch of changes"
_SEQUENCE = "batch sequence"

_SCHEMA = """
    CREATE TABLE IF NOT EXISTS changes (number INTEGER PRIMARY KEY AUTOINCREMENT,
        module TEXT NOT NULL, collector TEXT NOT NULL, id TEXT NOT NULL, operation TEXT NOT NULL, data BLOB);
    CREATE TABLE IF NOT EXISTS known (module TEXT, collector TEXT, id TEXT, hash BLOB NOT NULL,
        PRIMARY KEY (module, collector, id)) WITHOUT ROWID;
"""


class ChangeQueue:
    """Changes in the order of their collection. None is ever dropped for lack of room."""

    def __init__(self, file: SpoolFile) -> None:
        self._file = file
        self._batches = OpenBatches(file, _OPEN_BATCH)
        file.connection.executescript(_SCHEMA)

    def known(self, module: str, collector: str) -> dict[str, bytes]:
        """Return the digests, by state id, of the documents that the server has or will have when all is sent."""
        rows = self._file.connection.execute(
            "SELECT id, hash FROM known WHERE module = ? AND collector = ?", (module, collector)
        )
        return dict(rows.fetchall())

    def add(self, changes: Iterable[tuple[Change, bytes]]) -> None:
        """Store changes, each with the digest of its document (empty for a delete)."""
        with self._file.transaction() as connection:
            for change, digest in changes:
                _insert(connection, change)
                key = (change.module, change.collector, change.id)
                if change.data is None:
                    connection.execute("DELETE FROM known WHERE (module, collector, id) = (?, ?, ?)", key)
                else:
                    connection.execute("INSERT OR REPLACE INTO known VALUES (?, ?, ?, ?)", (*key, digest))
                self._file.count(states_collected=1)

    def next_batch(self, items: int, bytes_maximum: int = BATCH_BYTES_MAXIMUM) -> list[Change]:
        """Return the changes of the open batch or, without one, the oldest changes."""
        batch = self._batches.find()
        if batch is not None and (changes := self._select("WHERE number <= ? ORDER BY number", batch.last)):
            return changes
        changes = self._select("ORDER BY number LIMIT ?", items)
        return changes[: within_bytes([len(change.data or b"") + HEADER_BYTES for change in changes], bytes_maximum)]

    def _select(self, clauses: str, value: int) -> list[Change]:
        columns = "module, collector, id, operation, data, number"
        rows = self._file.connection.execute(f"SELECT {columns} FROM changes {clauses}", (value,))
        return [Change(*row) for row in rows]

    def open_batch(self, changes: Sequence[Change], metadata: Callable[[], AgentMetadata]) -> OpenBatch:
        """Return the open batch, or open one with these changes and the next number."""
        batch = self._batches.find()
        if batch is None or batch.last != changes[-1].number:
            with self._file.transaction():
                batch = self._batches.open(changes[-1].number, metadata(), self._next_sequence())
        return batch

    def close_batch(self) -> None:
        """Close the open batch: its changes are sent under a new key and a new number."""
        self._batches.close()

    def settle(self, settled: Sequence[Change], refused: int, again: Sequence[Change]) -> None:
        """Close the batch: delete its changes, `refused` of them with an error, and add the changes to send again."""
        with self._file.transaction() as connection:
            connection.executemany("DELETE FROM changes WHERE number = ?", [(change.number,) for change in settled])
            for change in again:
                _insert(connection, change)
            self._batches.close()
            self._file.count(states_sent=len(settled) - refused - len(again), states_refused=refused)

    def _next_sequence(self) -> int:
        """Return the number of the next batch: higher than all before it, even after a crash."""
        number = int(self._file.find_fact(_SEQUENCE) or 0) + 1
        self._file.remember(_SEQUENCE, number)
        return number

    def skip_sequences(self, latest: int) -> None:
        """Continue the numbers after `latest`, which the server has applied, also for the open batch."""
        self._batches.close()
        self._file.remember(_SEQUENCE, latest)

    def start_over(self, latest: int) -> None:
        """Continue the numbers after `latest`, and forget the known states and all unsent changes but deletions."""
        with self._file.transaction() as connection:
            self.skip_sequences(latest)
            connection.execute("DELETE FROM known")
            dropped = connection.execute("DELETE FROM changes WHERE operation <> 'delete'").rowcount
            self._file.count(states_refused=dropped)


def _insert(connection: sqlite3.Connection, change: Change) -> None:
    connection.execute(
        "INSERT INTO changes (module, collector, id, operation, data) VALUES (?, ?, ?, ?, ?)",
        (change.module, change.collector, change.id, change.operation, change.data),
    )
