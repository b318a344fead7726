"""Find the files that match patterns: enter each folder once, despite circular links, and within limits."""

import os
import stat
import time
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TypeAlias

import msgspec

ENTRIES_MAXIMUM = 200_000
SECONDS_MAXIMUM = 30.0
_ANY_DEPTH = "**"

Complain = Callable[[str, object], None]
"""Receives a path that cannot be searched, and the reason."""


class _Step(msgspec.Struct, frozen=True):
    """A folder, and the parts of the pattern that apply below it."""

    folder: Path
    parts: tuple[str, ...]


_Visit: TypeAlias = tuple[int, int, tuple[str, ...]]
"""The device and the inode of a folder, and the parts of the pattern that apply below it."""


class Walk:
    """One search, within bounds.

    Patterns are those of `glob`: `*`, `?` and `[…]` match within one name and not a leading dot, `**` matches any
    folders. A folder that several links lead to is entered once, by its own name if the pattern reaches that.
    """

    def __init__(self, complain: Complain, entries: int = ENTRIES_MAXIMUM, seconds: float = SECONDS_MAXIMUM) -> None:
        """Start the clock."""
        self._complain = complain
        self._entries = entries
        self._bound = f"its limit of {entries} entries and {seconds:g} seconds is reached"
        self._ends_at = time.monotonic() + seconds

    def find(self, pattern: str) -> Iterator[str]:
        """Yield the regular files that match a pattern; stop at the limits with a complaint."""
        path = Path(pattern)
        seen: set[_Visit] = set()
        steps, linked = [_Step(Path(path.anchor), path.parts[1:] if path.anchor else path.parts)], list[_Step]()
        while steps or linked:
            if self._entries <= 0 or time.monotonic() > self._ends_at:
                self._complain(pattern, self._bound)
                return
            step = (steps or linked).pop()
            if self._is_new(step, seen):
                yield from self._take(step, steps, linked)

    def _is_new(self, step: _Step, seen: set[_Visit]) -> bool:
        try:
            status = step.folder.stat()
        except OSError:  # it was removed, or its link is broken
            return False
        key = (status.st_dev, status.st_ino, step.parts)
        is_new = stat.S_ISDIR(status.st_mode) and key not in seen
        seen.add(key)
        return is_new

    def _take(self, step: _Step, steps: list[_Step], linked: list[_Step]) -> Iterator[str]:
        """Yield the files of one folder and queue the next steps."""
        part, rest = step.parts[0], step.parts[1:]
        if part == _ANY_DEPTH:
            steps.append(_Step(step.folder, rest or ("*",)))
            part, rest = "*", step.parts
        elif not set(part) & set("*?["):
            yield from self._take_named(step.folder / part, rest, steps)
            return
        for entry in self._matching(step.folder, part):
            if rest:
                (linked if entry.is_symlink() else steps).append(_Step(step.folder / entry.name, rest))
            elif _is_file(entry):
                yield str(step.folder / entry.name)

    def _take_named(self, path: Path, rest: tuple[str, ...], steps: list[_Step]) -> Iterator[str]:
        self._entries -= 1
        if rest:
            steps.append(_Step(path, rest))
        elif path.is_file():
            yield str(path)

    def _matching(self, folder: Path, part: str) -> list[os.DirEntry[str]]:
        found = []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    self._entries -= 1
                    if self._entries <= 0:
                        break
                    is_shown = not entry.name.startswith(".") or part.startswith(".")
                    if is_shown and fnmatchcase(entry.name, part):
                        found.append(entry)
        except PermissionError as error:
            self._complain(str(folder), error.strerror)
        except OSError:
            pass  # it was removed meanwhile
        return sorted(found, key=lambda entry: entry.name, reverse=True)


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False
