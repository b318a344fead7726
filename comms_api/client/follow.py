"""Follow log files: every whole line once, across rotation, truncation and our own crashes."""

import logging
import os
import resource
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from glob import glob
from pathlib import Path

import msgspec

from comms_api.client.host import as_text
from comms_api.client.model import Line, Place
from comms_api.client.spool import Spool

logger = logging.getLogger(__name__)

LINE_BYTES_MAXIMUM = 64 * 1024
READ_BYTES = 512 * 1024
STEP_BYTES_MAXIMUM = 2**20
HEAD_BYTES = 256
ROTATED_SECONDS = 60.0
"""How long a file that was rotated away is still read: its writer may not know yet."""
_CUT = " … (line cut)"
_FOLLOWED = "followed patterns"


class _Original(msgspec.Struct, frozen=True):
    original: str
    created: datetime


class _Path(msgspec.Struct, frozen=True):
    path: str


class _Log(msgspec.Struct, frozen=True):
    file: _Path


class _Event(msgspec.Struct, frozen=True):
    event: _Original
    log: _Log


class _File(msgspec.Struct):
    """An open file; `path`, as text, is where it was when it was opened."""

    path: str
    folder: Path
    inode: int
    descriptor: int
    until: float = 0.0


class Follower:
    """Reads what has been added to the files that match its patterns."""

    def __init__(self, patterns: tuple[str, ...], spool: Spool, *, from_start: bool) -> None:
        """Take the patterns.

        What exists when a pattern is new is read from its start or from its end; a file that appears later, always from
        its start.
        """
        self._patterns = patterns
        self._spool = spool
        self._from_start = from_start
        self._has_looked = spool.find_fact(_FOLLOWED) == msgspec.json.encode(patterns)
        self._step_bytes = min(STEP_BYTES_MAXIMUM, spool.bytes_maximum // 4)
        self._open: dict[str, _File] = {}
        self._rotated: list[_File] = []
        self._unreadable: set[str] = set()
        self._files_maximum = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2

    def find_paths(self) -> list[str]:
        """Return the files that match now; on a large tree this takes long."""
        found = {path for pattern in self._patterns for path in glob(pattern, recursive=True)}  # noqa: PTH207
        return sorted(path for path in found if Path(path).is_file())

    def collect(self, paths: list[str]) -> Iterator[int]:
        """Keep every whole line that is new in the spool; yield the number of lines after each step."""
        for path in sorted({*paths, *self._open}):
            try:
                self._look_at(path)
            except OSError as error:
                self._complain(path, error)
        over = [file for file in self._rotated if file.until <= time.monotonic()]
        for file in [*self._rotated, *self._open.values()]:
            try:
                yield from self._read(file, is_over=file in over)
            except OSError as error:
                self._complain(file.path, error)
        self._leave(over)
        if not self._has_looked:
            self._has_looked = True
            self._spool.remember(_FOLLOWED, self._patterns)

    def close(self) -> None:
        """Close the files."""
        for file in [*self._rotated, *self._open.values()]:
            os.close(file.descriptor)
        self._rotated.clear()
        self._open.clear()

    def _look_at(self, path: str) -> None:
        """Open what is new under a path, and set aside what is no longer there."""
        inode = _find_inode(path)
        if path in self._open and self._open[path].inode == inode:
            return
        if path in self._open:
            self._set_aside(self._open.pop(path))
            self._open_new(path, inode)
        elif self._open_new(path, inode):
            self._find_rotated(self._open[path])

    def _open_new(self, path: str, inode: int | None) -> bool:
        if inode is not None and len(self._open) < self._files_maximum and (file := _open(path)):
            self._open[path] = file
        elif inode is not None:
            self._complain(path, "it cannot be opened, or there are too many")
        return path in self._open

    def _complain(self, path: str, reason: object) -> None:
        if path not in self._unreadable:
            self._unreadable.add(path)
            logger.warning("cannot follow %s: %s", as_text(path), reason)

    def _set_aside(self, file: _File) -> None:
        file.until = time.monotonic() + ROTATED_SECONDS
        self._rotated.append(file)

    def _find_rotated(self, now: _File) -> None:
        """Find what was rotated away from under a path while nobody looked."""
        places = {place.inode: place for place in self._spool.places(now.path) if place.inode != now.inode}
        for entry in os.scandir(now.folder) if places else ():
            place = places.pop(entry.inode(), None)
            file = _open(entry.path) if place and entry.is_file(follow_symlinks=False) else None
            if place and file and _is_same(file, place):
                self._set_aside(_File(now.path, now.folder, file.inode, file.descriptor))
            elif file:  # the number of a file that is no more was given to another
                os.close(file.descriptor)
        for place in places.values():
            self._spool.forget_place(place)

    def _leave(self, over: list[_File]) -> None:
        for file in over:
            self._rotated.remove(file)
            os.close(file.descriptor)

    def _read(self, file: _File, *, is_over: bool) -> Iterator[int]:
        """Keep what is new; the last line of a file that nobody writes to any more is whole as it is."""
        place = self._place(file)
        while data := os.pread(file.descriptor, READ_BYTES, place.position):
            whole = data.rfind(b"\n") + 1
            if whole == 0 and len(data) < READ_BYTES and not is_over:
                return  # a line that is still being written
            lines, length = self._lines(file.path, data[: whole or len(data)])
            place = msgspec.structs.replace(place, position=place.position + length)
            self._spool.add_lines(place, lines)
            yield len(lines)

    def _lines(self, path: str, data: bytes) -> tuple[list[Line], int]:
        """Return lines for one step, and how far they reach: as events they are many times as long as in the file."""
        lines: list[Line] = []
        length = size = 0
        for raw in data.split(b"\n"):
            length += len(raw) + 1
            if raw:
                lines.append(_line(path, raw))
                size += len(lines[-1].event)
            if size >= self._step_bytes:
                break
        return lines, min(length, len(data))

    def _place(self, file: _File) -> Place:
        place = Place(as_text(str(file.folder)), file.inode, file.path, os.pread(file.descriptor, HEAD_BYTES, 0), 0)
        known = self._spool.find_place(place.folder, place.inode)
        if known is not None:
            return msgspec.structs.replace(place, position=known.position) if _is_same(file, known) else place
        if self._from_start or self._has_looked or self._spool.places(file.path):
            return place
        # Remembered at once: what is written from now on is new, even if we are restarted.
        place = msgspec.structs.replace(place, position=os.fstat(file.descriptor).st_size)
        self._spool.add_lines(place, [])
        return place


def _open(path: str) -> _File | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    folder = Path(path).resolve().parent
    return _File(as_text(path), folder, os.fstat(descriptor).st_ino, descriptor)


def _find_inode(path: str) -> int | None:
    try:
        return Path(path).stat().st_ino
    except OSError:
        return None


def _is_same(file: _File, place: Place) -> bool:
    """Return whether a file is the one that was read before: not truncated, not another with its number."""
    head = os.pread(file.descriptor, HEAD_BYTES, 0)
    return head.startswith(place.head) and place.position <= os.fstat(file.descriptor).st_size


def _line(path: str, raw: bytes) -> Line:
    text = raw.rstrip(b"\r")[:LINE_BYTES_MAXIMUM].decode(errors="backslashreplace")
    if len(raw) > LINE_BYTES_MAXIMUM:
        text += _CUT
    event = _Event(_Original(text, datetime.now(UTC)), _Log(_Path(path)))
    return Line(0, "logcollector", "file", msgspec.json.encode(event))
