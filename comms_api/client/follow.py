"""Follow log files: every whole line once, across rotation, truncation and our own crashes."""

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from glob import glob
from pathlib import Path

import msgspec

from comms_api.client.model import Line
from comms_api.client.spool import Spool

LINE_BYTES_MAXIMUM = 64 * 1024
READ_BYTES = 2**20
_CUT = " … (line cut)"


class _Original(msgspec.Struct, frozen=True):
    original: str
    created: datetime


class _File(msgspec.Struct, frozen=True):
    path: str


class _Log(msgspec.Struct, frozen=True):
    file: _File


class _Event(msgspec.Struct, frozen=True):
    event: _Original
    log: _Log


class Follower:
    """Reads what has been added to the files that match its patterns."""

    def __init__(self, patterns: tuple[str, ...], spool: Spool, *, from_start: bool) -> None:
        """Take the patterns; a file seen for the first time is read from its start, or from its end."""
        self._patterns = patterns
        self._spool = spool
        self._from_start = from_start
        self._open: dict[str, int] = {}

    def collect(self) -> int:
        """Keep every whole line that is new in the spool and return how many there were."""
        collected = 0
        for path in sorted({path for pattern in self._patterns for path in _matches(pattern)}):
            if Path(path).is_file():
                collected += sum(self._collect_file(path))
        return collected

    def close(self) -> None:
        """Close the files."""
        while self._open:
            os.close(self._open.popitem()[1])

    def _collect_file(self, path: str) -> Iterator[int]:
        try:
            if path in self._open and os.fstat(self._open[path]).st_ino != Path(path).stat().st_ino:
                yield from self._read(path)  # rotated: first what was added to the old file before
                os.close(self._open.pop(path))
            if path not in self._open:
                self._open[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            yield from self._read(path)
        except (FileNotFoundError, PermissionError):
            return

    def _read(self, path: str) -> Iterator[int]:
        status = os.fstat(self._open[path])
        position = self._start(path, status)
        while data := os.pread(self._open[path], READ_BYTES, position):
            whole = data.rfind(b"\n") + 1
            if whole == 0 and len(data) < READ_BYTES:
                return  # a line that is still being written
            whole = whole or len(data)
            lines = [_line(path, line) for line in data[:whole].split(b"\n") if line]
            position += whole
            self._spool.add_lines(path, status.st_ino, position, lines)
            yield len(lines)

    def _start(self, path: str, status: os.stat_result) -> int:
        known = self._spool.find_offset(path)
        if known is None:
            if self._from_start:
                return 0
            # Remembered at once: what is written from now on is new, even if we are restarted.
            self._spool.add_lines(path, status.st_ino, status.st_size, [])
            return status.st_size
        inode, position = known
        is_other_file = inode != status.st_ino or position > status.st_size
        return 0 if is_other_file else position


def _matches(pattern: str) -> list[str]:
    return glob(pattern, recursive=True)  # noqa: PTH207 - Path.glob wants a folder to begin at


def _line(path: str, raw: bytes) -> Line:
    text = raw.rstrip(b"\r")[:LINE_BYTES_MAXIMUM].decode(errors="backslashreplace")
    if len(raw) > LINE_BYTES_MAXIMUM:
        text += _CUT
    event = _Event(_Original(text, datetime.now(UTC)), _Log(_File(path)))
    return Line(0, "logcollector", "file", msgspec.json.encode(event))
