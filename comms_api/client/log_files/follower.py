"""Follow log files: every whole line once, across rotation, copies, truncation and our own crashes."""

import logging
import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from comms_api.client.log_files.lines import Source, take_lines
from comms_api.client.log_files.open_file import OpenFile, has_compressed_name, open_file
from comms_api.client.log_files.walk import SECONDS_MAXIMUM, Walk
from comms_api.client.spool.model import Place
from comms_api.client.spool.spool import Spool
from comms_api.text.printable import as_text

logger = logging.getLogger(__name__)

READ_BYTES = 512 * 1024
STEP_BYTES_MAXIMUM = 2**20
ROTATED_SECONDS = 60.0
"""How long a file that was rotated away is still read: its writer may not know yet."""
COPY_BYTES_MINIMUM = 32
"""Shorter content is sent again, not treated as a copy: files may begin alike by chance."""
COPYING_SECONDS = 60.0
"""How long a file that equals the beginning of another counts as an unfinished copy while it does not grow."""
COMPLAINTS_MAXIMUM = 10_000
_FOLLOWED = "followed patterns"
_COMPRESSED = "it is compressed"


class Follower:
    """Reads new data from the files that match its patterns.

    What exists when a pattern is new is read from its start or from its end; a file that appears later, always from its
    start.
    """

    def __init__(self, patterns: tuple[str, ...], spool: Spool, *, from_start: bool) -> None:
        """Open no file yet."""
        self._patterns = patterns
        self._spool = spool
        self._places = spool.places
        self._from_start = from_start
        self._followed = [as_text(pattern) for pattern in patterns]
        self._has_looked = spool.find_fact(_FOLLOWED) == msgspec.json.encode(self._followed)
        self._step_bytes = min(STEP_BYTES_MAXIMUM, spool.bytes_maximum // 4)
        self._open: dict[str, OpenFile] = {}
        self._rotated: list[OpenFile] = []
        self._complaints: dict[str, str] = {}
        self._files_maximum = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2

    def find_paths(self) -> list[str]:
        """Return the files that match now; on a large tree this takes long."""
        seconds = SECONDS_MAXIMUM / max(1, len(self._patterns))
        found = {path for pattern in self._patterns for path in Walk(self._complain, seconds=seconds).find(pattern)}
        for path in filter(has_compressed_name, found):
            self._complain(path, _COMPRESSED)
        return sorted(path for path in found if not has_compressed_name(path))

    def collect(self, paths: list[str]) -> Iterator[int]:
        """Keep every whole line that is new in the spool; yield the number of lines after each step."""
        for path in sorted({*paths, *self._open}):
            try:
                self._look_at(path)
            except OSError as error:
                self._complain(path, error)
        over = [file for file in self._rotated if file.closes_at <= time.monotonic()]
        for file in self._originals_first():
            try:
                yield from self._read(file, is_over=file in over)
            except OSError as error:
                self._complain(file.path, error)
        self._leave(over)
        if not self._has_looked:
            self._has_looked = True
            self._spool.remember(_FOLLOWED, self._followed)

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
        if inode is not None and len(self._open) < self._files_maximum and (file := open_file(path)):
            self._open[path] = file
            self._complaints.pop(path, None)
        elif inode is not None:
            self._complain(path, "it cannot be opened, or there are too many")
        return path in self._open

    def _complain(self, path: str, reason: object) -> None:
        """Log why a path is not followed, once until the reason changes."""
        if self._complaints.get(path) != str(reason):
            if len(self._complaints) >= COMPLAINTS_MAXIMUM:
                self._complaints.clear()
            self._complaints[path] = str(reason)
            logger.warning("cannot follow %s: %s", as_text(path), reason)

    def _set_aside(self, file: OpenFile) -> None:
        file.closes_at = time.monotonic() + ROTATED_SECONDS
        self._rotated.append(file)

    def _find_rotated(self, now: OpenFile) -> None:
        """Find what was rotated away from under a path while nobody looked."""
        places = {place.inode: place for place in self._places.at_path(now.path) if place.inode != now.inode}
        for entry in os.scandir(now.folder) if places else ():
            place = places.pop(entry.inode(), None)
            file = open_file(entry.path) if place and entry.is_file(follow_symlinks=False) else None
            if place and file and file.continues(place):
                file.path = now.path
                self._set_aside(file)
            elif file:  # the number of a file that is no more was given to another
                os.close(file.descriptor)
        for place in places.values():
            self._places.forget(place)

    def _leave(self, over: list[OpenFile]) -> None:
        for file in over:
            self._rotated.remove(file)
            os.close(file.descriptor)

    def _originals_first(self) -> list[OpenFile]:
        """Return the files in reading order: originals before their copies, whose names are longer."""
        files = sorted(self._open.values(), key=lambda file: (self._has_new_content(file), len(file.path)))
        return [*self._rotated, *files]

    def _has_new_content(self, file: OpenFile) -> bool:
        try:
            return file.read_status != file.status() and self._known_place(file) is None
        except OSError:  # reading it will fail too, and is logged then
            return True

    def _read(self, file: OpenFile, *, is_over: bool) -> Iterator[int]:
        """Keep what is new; the last line of a file that nobody writes to any more is whole as it is."""
        status = file.status()
        if status == file.read_status and not is_over:
            return
        place = self._known_place(file) or self._new_place(file)
        while place and (data := os.pread(file.descriptor, READ_BYTES, place.position)):
            is_last = is_over and len(data) < READ_BYTES
            source, size = Source(file.path, file.encoding()), self._step_bytes
            piece = take_lines(source, data, is_cut=place.is_cut, is_last=is_last, events_bytes=size)
            if not piece.length:
                break
            place = file.place(place.position + piece.length, is_cut=piece.is_cut)
            self._spool.add_lines(place, piece.lines)
            yield len(piece.lines)
        if place or not file.original:
            file.read_status = status

    def _known_place(self, file: OpenFile) -> Place | None:
        """Return the reading position in a file, if its content is still the same."""
        known = self._places.find(as_text(str(file.folder)), file.inode)
        return msgspec.structs.replace(known, path=file.path) if known and file.continues(known) else None

    def _new_place(self, file: OpenFile) -> Place | None:
        """Return where to start reading new content of this file; None while that is unknown."""
        known = self._places.find(as_text(str(file.folder)), file.inode)
        if known and known.position:
            self._places.retire(known)
        size, _ = file.status()
        if not (known or self._from_start or self._has_looked or self._places.at_path(file.path)):
            # Remembered at once: lines written from now on are new, even after a restart.
            place = file.place(file.encoding().whole_units(size))
            self._spool.add_lines(place, [])
            return place
        if size == 0:
            return None
        if file.is_compressed():
            self._complain(file.path, _COMPRESSED)
            return None
        return self._place_of_copy(file, size)

    def _place_of_copy(self, file: OpenFile, size: int) -> Place | None:
        """Return the position up to which a copy's original was read, or the start if the file is not a copy."""
        similar = self._places.similar(file.place(0))
        long_enough = (place for place in similar if place.position >= COPY_BYTES_MINIMUM)
        place = next((place for place in long_enough if file.continues(place)), None)
        original = file.original if file.copied_bytes >= COPY_BYTES_MINIMUM else None
        if place is None and original and not self._find_open(original):  # it was truncated after the copy was made
            place = file.place(min(size, file.copied_bytes))
        if place is None:
            file.original = self._find_original(file, size, similar)
            return None if file.original else file.place(0)
        file.original = None
        place = file.place(place.position, is_cut=place.is_cut)
        self._spool.add_lines(place, [])
        return place

    def _find_original(self, file: OpenFile, size: int, similar: list[Place]) -> Place | None:
        """Return the content that this file may be an unfinished copy of."""
        now = time.monotonic()
        if file.copied_bytes != size:
            file.copied_bytes, file.copied_at = size, now
        for place in similar if now < file.copied_at + COPYING_SECONDS else ():
            original = self._find_open(place)
            if original and place.position > size and original.digest(size) == file.digest(size):
                return place
        return None

    def _find_open(self, place: Place) -> OpenFile | None:
        """Return the open file that still has this content."""
        files = (file for file in [*self._open.values(), *self._rotated] if file.is_at(place))
        return next((file for file in files if file.continues(place)), None)


def _find_inode(path: str) -> int | None:
    try:
        return Path(path).stat().st_ino
    except OSError:
        return None
