"""Follow log files: read each whole line once, across rotation, copying, truncation and crashes of the agent."""

import logging
import os
import resource
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from comms_api.client.log_files.lines import Source, take_lines
from comms_api.client.log_files.open_file import OpenFile, has_compressed_name, open_file
from comms_api.client.log_files.walk import SECONDS_MAXIMUM, Walk
from comms_api.client.spool.model import FilePosition, Line
from comms_api.client.spool.thread import SpoolThread
from comms_api.text.printable import as_text

logger = logging.getLogger(__name__)

READ_BYTES = 512 * 1024
STEP_BYTES_MAXIMUM = 2**20
ROTATED_SECONDS = 60.0
"""A rotated file is still read for this time, since its writer may still have it open."""
COPY_BYTES_MINIMUM = 32
"""Shorter content is read again and not treated as a copy: files may begin alike by chance."""
COPYING_SECONDS = 60.0
"""A file that equals the beginning of another counts as an unfinished copy until it has not grown for this time."""
WARNINGS_MAXIMUM = 10_000
_FOLLOWED = "followed patterns"
_COMPRESSED = "it is compressed"


class Follower:
    """Reads new lines from the files that match its patterns.

    Files that exist when a pattern is new are read from their end, or with `from_start` from their start. Files that
    appear later are always read from their start. A slow disk blocks the thread that calls a method.
    """

    def __init__(self, patterns: tuple[str, ...], spool: SpoolThread, *, from_start: bool) -> None:
        self._patterns = patterns
        self._spool = spool
        self._positions = spool.file.positions
        self._from_start = from_start
        self._followed = [as_text(pattern) for pattern in patterns]
        self._has_looked = spool.wait(spool.file.find_fact, _FOLLOWED) == msgspec.json.encode(self._followed)
        self._step_bytes = min(STEP_BYTES_MAXIMUM, spool.file.lines.bytes_maximum // 4)
        self._open: dict[str, OpenFile] = {}
        self._rotated: list[OpenFile] = []
        self._warnings: dict[str, str] = {}
        self._files_maximum = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2

    def find_paths(self) -> list[str]:
        """Return the files that match now. In a large tree this takes up to `SECONDS_MAXIMUM`."""
        seconds = SECONDS_MAXIMUM / max(1, len(self._patterns))
        found = {path for pattern in self._patterns for path in Walk(self._warn, seconds=seconds).find(pattern)}
        for path in filter(has_compressed_name, found):
            self._warn(path, _COMPRESSED)
        return sorted(path for path in found if not has_compressed_name(path))

    def collect(self, paths: list[str]) -> Iterator[int]:
        """Store every new whole line in the spool; yield the number of lines after each step."""
        for path in sorted({*paths, *self._open}):
            try:
                self._check_path(path)
            except OSError as error:
                self._warn(path, error)
        expired = [file for file in self._rotated if file.closes_at <= time.monotonic()]
        for file in self._originals_first():
            try:
                yield from self._read(file, is_final=file in expired)
            except OSError as error:
                self._warn(file.path, error)
        for file in expired:
            self._rotated.remove(file)
            os.close(file.descriptor)
        if not self._has_looked:
            self._has_looked = True
            self._spool.wait(self._spool.file.remember, _FOLLOWED, self._followed)

    def close(self) -> None:
        """Close the files."""
        for file in [*self._rotated, *self._open.values()]:
            os.close(file.descriptor)
        self._rotated.clear()
        self._open.clear()

    def _warn(self, path: str, reason: object) -> None:
        """Log why a path is not followed, once until the reason changes."""
        if self._warnings.get(path) != str(reason):
            if len(self._warnings) >= WARNINGS_MAXIMUM:
                self._warnings.clear()
            self._warnings[path] = str(reason)
            logger.warning("cannot follow %s: %s", as_text(path), reason)

    def _check_path(self, path: str) -> None:
        """Open the file at a path if it is new, and keep its predecessors as rotated files."""
        inode = _find_inode(path)
        if path in self._open and self._open[path].inode == inode:
            return
        if path in self._open:
            self._keep_as_rotated(self._open.pop(path))
            self._open_new(path, inode)
        elif self._open_new(path, inode):
            self._find_rotated(self._open[path])

    def _open_new(self, path: str, inode: int | None) -> bool:
        if inode is not None and len(self._open) < self._files_maximum and (file := open_file(path)):
            self._open[path] = file
            self._warnings.pop(path, None)
        elif inode is not None:
            self._warn(path, "it cannot be opened, or there are too many")
        return path in self._open

    def _keep_as_rotated(self, file: OpenFile) -> None:
        file.closes_at = time.monotonic() + ROTATED_SECONDS
        self._rotated.append(file)

    def _find_rotated(self, current: OpenFile) -> None:
        """Find the files that were rotated away from the path of `current` while the agent was not running."""
        positions = self._spool.wait(self._positions.at_path, current.path)
        by_inode = {position.inode: position for position in positions if position.inode != current.inode}
        for entry in os.scandir(current.folder) if by_inode else ():
            position = by_inode.pop(entry.inode(), None)
            file = open_file(entry.path) if position and entry.is_file(follow_symlinks=False) else None
            if position and file and file.begins_with_content_of(position):
                file.path = current.path
                self._keep_as_rotated(file)
            elif file:  # the rotated file was deleted, and its inode reused
                os.close(file.descriptor)
        for position in by_inode.values():
            self._spool.wait(self._positions.forget, position)

    def _originals_first(self) -> list[OpenFile]:
        """Return the files in reading order: originals before their copies, whose names are longer."""
        files = sorted(self._open.values(), key=lambda file: (self._has_new_content(file), len(file.path)))
        return [*self._rotated, *files]

    def _has_new_content(self, file: OpenFile) -> bool:
        try:
            return file.read_status != file.status() and self._find_position(file) is None
        except OSError:  # reading the file fails too, and is logged then
            return True

    def _read(self, file: OpenFile, *, is_final: bool) -> Iterator[int]:
        """Store the new lines of a file; with `is_final`, its last line is complete even without a newline."""
        status = file.status()
        if status == file.read_status and not is_final:
            return
        position = self._find_position(file) or self._choose_position(file)
        while position and (data := os.pread(file.descriptor, READ_BYTES, position.offset)):
            is_last = is_final and len(data) < READ_BYTES
            source, size = Source(file.path, file.encoding()), self._step_bytes
            taken = take_lines(source, data, is_cut=position.is_cut, is_last=is_last, events_bytes=size)
            if not taken.length:
                break
            position = file.position_at(position.offset + taken.length, is_cut=taken.is_cut)
            self._add(position, taken.lines)
            yield len(taken.lines)
        if position or not file.original:
            file.read_status = status

    def _find_position(self, file: OpenFile) -> FilePosition | None:
        """Return the stored position in a file, if the content before it is still the same."""
        known = self._find_known(file)
        if known is None or not file.begins_with_content_of(known):
            return None
        return msgspec.structs.replace(known, path=file.path)

    def _choose_position(self, file: OpenFile) -> FilePosition | None:
        """Return where to begin reading content that is new in this file; None while that is unknown."""
        known = self._find_known(file)
        if known and known.offset:
            self._spool.wait(self._positions.retire, known)
        size, _ = file.status()
        is_followed = known or self._from_start or self._has_looked
        if not (is_followed or self._spool.wait(self._positions.at_path, file.path)):
            # Stored at once: after a restart too, lines written from now on are new.
            position = file.position_at(file.encoding().whole_units(size))
            self._add(position)
            return position
        if size == 0:
            return None
        if file.is_compressed():
            self._warn(file.path, _COMPRESSED)
            return None
        return self._position_in_copy(file, size)

    def _position_in_copy(self, file: OpenFile, size: int) -> FilePosition | None:
        """Return the position up to which a copy's original was read, or the start of a file that is not a copy.

        Return None while the file may be an unfinished copy.
        """
        similar = self._spool.wait(self._positions.similar, file.position_at(0))
        long_enough = (content for content in similar if content.offset >= COPY_BYTES_MINIMUM)
        position = next((content for content in long_enough if file.begins_with_content_of(content)), None)
        original = file.original if file.copied_bytes >= COPY_BYTES_MINIMUM else None
        if position is None and original and not self._find_open(original):  # it was truncated after the copy was made
            position = file.position_at(min(size, file.copied_bytes))
        if position is None:
            file.original = self._find_original(file, size, similar)
            return None if file.original else file.position_at(0)
        file.original = None
        position = file.position_at(position.offset, is_cut=position.is_cut)
        self._add(position)
        return position

    def _find_original(self, file: OpenFile, size: int, similar: list[FilePosition]) -> FilePosition | None:
        """Return the content that this file may be an unfinished copy of."""
        now = time.monotonic()
        if file.copied_bytes != size:
            file.copied_bytes, file.copied_at = size, now
        for content in similar if now < file.copied_at + COPYING_SECONDS else ():
            original = self._find_open(content)
            if original and content.offset > size and original.digest(size) == file.digest(size):
                return content
        return None

    def _find_known(self, file: OpenFile) -> FilePosition | None:
        return self._spool.wait(self._positions.find, as_text(str(file.folder)), file.inode)

    def _add(self, position: FilePosition, lines: Sequence[Line] = ()) -> None:
        self._spool.wait(self._spool.file.lines.add, position, lines)

    def _find_open(self, position: FilePosition) -> OpenFile | None:
        """Return the open file of a position, if it still has that content."""
        files = (file for file in [*self._open.values(), *self._rotated] if file.is_file_of(position))
        return next((file for file in files if file.begins_with_content_of(position)), None)


def _find_inode(path: str) -> int | None:
    try:
        return Path(path).stat().st_ino
    except OSError:
        return None
