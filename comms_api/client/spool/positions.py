"""The reading position of each log file, and the past contents of files, by which their copies are recognised.

Nothing here begins a transaction: `LineQueue.add` stores a position in the transaction of the lines before it.
"""

import re
from pathlib import PurePath

import msgspec

from comms_api.client.spool.file import SpoolFile
from comms_api.client.spool.model import FilePosition

PAST_CONTENTS_KEPT = 1_000
CANDIDATES_MAXIMUM = 200

_SCHEMA = """
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

_COPY_SUFFIX = re.compile(r"(?![^\W_]).*(\d|\b(old|bak|backup|copy|orig|prev|save)\b)", re.IGNORECASE)
_COLUMNS = "folder, inode, path, position, opening, digest, is_cut"
_SIMILAR = "opening = :opening AND family = :family AND path <> :path AND position > 0"


class FilePositions:
    """The positions in the files that are followed now, and in the contents that files had before."""

    def __init__(self, file: SpoolFile) -> None:
        self._connection = file.connection
        self._connection.executescript(_SCHEMA)

    def find(self, folder: str, inode: int) -> FilePosition | None:
        """Return the reading position in a file."""
        found = self._select("FROM contents WHERE (folder, inode) = (:folder, :inode)", folder=folder, inode=inode)
        return found[0] if found else None

    def at_path(self, path: str) -> list[FilePosition]:
        """Return the positions in all files that were last seen under a path: the current one and rotated ones."""
        return self._select("FROM contents WHERE path = :path", path=path)

    def similar(self, position: FilePosition) -> list[FilePosition]:
        """Return the contents that this file may be a copy of, longest first.

        They are present or past contents of other files that begin with the same line, and after which this file is
        named.
        """
        tables = (f"SELECT {_COLUMNS} FROM {table} WHERE {_SIMILAR}" for table in ("contents", "past_contents"))
        found = self._select(
            f"FROM ({' UNION ALL '.join(tables)}) ORDER BY position DESC LIMIT {CANDIDATES_MAXIMUM}",
            opening=position.opening,
            family=_family(position.path),
            path=position.path,
        )
        return [content for content in found if _is_named_after(position.path, content.path)]

    def put(self, position: FilePosition) -> None:
        """Store the reading position in a file."""
        self._connection.execute(
            f"INSERT OR REPLACE INTO contents ({_COLUMNS}, family) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", _row(position)
        )

    def retire(self, position: FilePosition) -> None:
        """Move the content of a file to the past contents, because the file has lost it: a copy may appear later."""
        self._connection.execute(
            f"INSERT INTO past_contents ({_COLUMNS}, family) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", _row(position)
        )
        self._connection.execute(
            "DELETE FROM past_contents WHERE number <= (SELECT max(number) FROM past_contents) - ?",
            (PAST_CONTENTS_KEPT,),
        )
        self.put(msgspec.structs.replace(position, offset=0, is_cut=False))

    def forget(self, position: FilePosition) -> None:
        """Forget a file that no longer exists, but keep its content among the past ones."""
        self.retire(position)
        self._connection.execute(
            "DELETE FROM contents WHERE (folder, inode) = (?, ?)", (position.folder, position.inode)
        )

    def _select(self, clauses: str, **parameters: object) -> list[FilePosition]:
        rows = self._connection.execute(f"SELECT {_COLUMNS} {clauses}", parameters)
        return [FilePosition(*row) for row in rows]


def _row(position: FilePosition) -> tuple[object, ...]:
    return (*msgspec.structs.astuple(position), _family(position.path))


def _is_named_after(path: str, original: str) -> bool:
    """Return whether a name is the original's with a number, a date or a word such as `old`.

    Copies of app.log are app.log.1, app.log-20261126, app-2026-11-26.log and app.log.old, but not app-error.log.
    """
    stem, name = PurePath(original).stem, PurePath(path).name
    return path != original and name.startswith(stem) and bool(_COPY_SUFFIX.match(name, len(stem)))


def _family(path: str) -> str:
    """Return the letters at the beginning of a file's name, which a copy shares with its original."""
    found = re.match(r"[^\W\d_]*", PurePath(path).name)
    return found[0] if found else ""
