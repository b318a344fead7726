"""The reading position of each log file in the agent's spool, and past contents of files, to recognise their copies.

Nothing here begins a transaction: a place is written in the transaction that stores the lines before it.
"""

import re
import sqlite3
from pathlib import PurePath

import msgspec

from comms_api.client.spool.model import Place

PAST_KEPT = 1_000
CANDIDATES_MAXIMUM = 200

PLACES_SCHEMA = """
    CREATE TABLE IF NOT EXISTS contents (folder TEXT, inode INTEGER, path TEXT NOT NULL, position INTEGER NOT NULL,
        opening BLOB NOT NULL, digest BLOB NOT NULL, is_cut INTEGER NOT NULL, family TEXT NOT NULL,
        PRIMARY KEY (folder, inode)) WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS contents_by_path ON contents (path);
    CREATE INDEX IF NOT EXISTS contents_by_opening ON contents (opening, family);
    CREATE TABLE IF NOT EXISTS past_contents (number INTEGER PRIMARY KEY AUTOINCREMENT, folder TEXT, inode INTEGER,
        path TEXT NOT NULL, position INTEGER NOT NULL, opening BLOB NOT NULL, digest BLOB NOT NULL,
        is_cut INTEGER NOT NULL, family TEXT NOT NULL);
    CREATE INDEX IF NOT EXISTS past_contents_by_opening ON past_contents (opening, family);
"""

_COPY = re.compile(r"(?![^\W_]).*(\d|\b(old|bak|backup|copy|orig|prev|save)\b)", re.IGNORECASE)
_COLUMNS = "folder, inode, path, position, opening, digest, is_cut"
_SIMILAR = "opening = :opening AND family = :family AND path <> :path AND position > 0"


class Places:
    """The places of the files that are followed."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Use the connection of the spool."""
        self._connection = connection

    def find(self, folder: str, inode: int) -> Place | None:
        """Return the reading position of a file."""
        found = self._select("FROM contents WHERE (folder, inode) = (:folder, :inode)", folder=folder, inode=inode)
        return found[0] if found else None

    def at_path(self, path: str) -> list[Place]:
        """Return the files last seen under this path: the current one and rotated ones."""
        return self._select("FROM contents WHERE path = :path", path=path)

    def similar(self, place: Place) -> list[Place]:
        """Return the content of other files, present or past, that this file may be a copy of; the longest first.

        They begin with the same line, and the file is named after them.
        """
        tables = (f"SELECT {_COLUMNS} FROM {table} WHERE {_SIMILAR}" for table in ("contents", "past_contents"))
        found = self._select(
            f"FROM ({' UNION ALL '.join(tables)}) ORDER BY position DESC LIMIT {CANDIDATES_MAXIMUM}",
            opening=place.opening,
            family=_family(place.path),
            path=place.path,
        )
        return [content for content in found if _is_named_after(place.path, content.path)]

    def put(self, place: Place) -> None:
        """Store the reading position of a file."""
        self._connection.execute(
            f"INSERT OR REPLACE INTO contents ({_COLUMNS}, family) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", _row(place)
        )

    def retire(self, place: Place) -> None:
        """Note that a file has lost the content that was read: a copy of it may appear later."""
        self._connection.execute(
            f"INSERT INTO past_contents ({_COLUMNS}, family) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", _row(place)
        )
        self._connection.execute(
            "DELETE FROM past_contents WHERE number <= (SELECT max(number) FROM past_contents) - ?", (PAST_KEPT,)
        )
        self.put(msgspec.structs.replace(place, position=0, is_cut=False))

    def forget(self, place: Place) -> None:
        """Forget a file that no longer exists, but not its content."""
        self.retire(place)
        self._connection.execute("DELETE FROM contents WHERE (folder, inode) = (?, ?)", (place.folder, place.inode))

    def _select(self, clauses: str, **parameters: object) -> list[Place]:
        rows = self._connection.execute(f"SELECT {_COLUMNS} {clauses}", parameters)
        return [Place(*row) for row in rows]


def _row(place: Place) -> tuple[object, ...]:
    return (*msgspec.structs.astuple(place), _family(place.path))


def _is_named_after(path: str, original: str) -> bool:
    """Return whether a name is that of a copy: the original's, with a number, a date or a word such as `old`.

    These are named after app.log: app.log.1, app.log-20261126, app-2026-11-26.log, app.log.old; but not app-error.log.
    """
    stem, name = PurePath(original).stem, PurePath(path).name
    return path != original and name.startswith(stem) and bool(_COPY.match(name, len(stem)))


def _family(path: str) -> str:
    """Return the letters that a name begins with, which copies share with their original."""
    found = re.match(r"[^\W\d_]*", PurePath(path).name)
    return found[0] if found else ""
