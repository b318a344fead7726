"""The SQLite file of the spool: its transactions, facts and counters."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from comms_api.client.spool.model import Statistics

_SCHEMA = """
    CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value BLOB NOT NULL);
    CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
"""


class SpoolFile:
    """An open file, readable by its owner only. Only the thread that opens it can use it."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
        self.connection = sqlite3.connect(path, isolation_level=None)
        self.connection.execute("PRAGMA journal_mode = WAL")
        self.connection.execute("PRAGMA synchronous = FULL")  # a committed transaction survives a power cut
        self.connection.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the file."""
        self.connection.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Commit at the end of the block, or roll back if the block fails."""
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield self.connection
            self.connection.execute("COMMIT")
        except BaseException:
            if self.connection.in_transaction:  # SQLite has already rolled back if the disk is full
                self.connection.execute("ROLLBACK")
            raise

    def find_fact(self, name: str) -> bytes | None:
        """Return a remembered fact as JSON."""
        row = self.connection.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else bytes(row[0])

    def remember(self, name: str, value: object) -> None:
        """Remember a fact as JSON, within the current transaction if there is one."""
        self.connection.execute(
            "INSERT OR REPLACE INTO facts (name, value) VALUES (?, ?)", (name, msgspec.json.encode(value))
        )

    def forget(self, name: str) -> None:
        """Forget a fact, within the current transaction if there is one."""
        self.connection.execute("DELETE FROM facts WHERE name = ?", (name,))

    def count(self, **amounts: int) -> None:
        """Add to counters, within the current transaction if there is one."""
        self.connection.executemany(
            "INSERT INTO counters VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
            amounts.items(),
        )

    def statistics(self) -> Statistics:
        """Return all counters."""
        return Statistics(**dict(self.connection.execute("SELECT name, value FROM counters")))
