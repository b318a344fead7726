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

Warn = Callable[[str, object], None]
"""Receives a path that cannot be searched, and the reason."""


class _Step(msgspec.Struct, frozen=True):
    """A folder, and the parts of the pattern that apply below it."""

    folder: Path
    parts: tuple[str, ...]


_Visit: TypeAlias = tuple[int, int, tuple[str, ...]]
"""The device and the inode of a folder, and the parts of the pattern that apply below it."""


class Walk:
    """One search, limited to a number of entries and seconds, which begin with the construction.

    Patterns are written as for `glob`: `*`, `?` and `[…]` match within one name and not a leading dot, `**` matches any
    folders. A folder that several links lead to is entered once, by its real name if the pattern matches that.
    """

    def __init__(self, warn: Warn, entries: int = ENTRIES_MAXIMUM, seconds: float = SECONDS_MAXIMUM) -> None:
        self._warn = warn
        self._entries = entries
        self._limit = f"its limit of {entries} entries and {seconds:g} seconds is reached"
        self._ends_at = time.monotonic() + seconds

    def find(self, pattern: str) -> Iterator[str]:
        """Yield the regular files that match a pattern; stop with a warning when a limit is reached."""
        path = Path(pattern)
        seen: set[_Visit] = set()
        steps, linked = [_Step(Path(path.anchor), path.parts[1:] if path.anchor else path.parts)], list[_Step]()
        while steps or linked:
            if self._entries <= 0 or time.monotonic() > self._ends_at:
                self._warn(pattern, self._limit)
                return
            step = (steps or linked).pop()  # links last: then the real names of their targets have been entered
            if _is_new(step, seen):
                yield from self._enter(step, steps, linked)

    def _enter(self, step: _Step, steps: list[_Step], linked: list[_Step]) -> Iterator[str]:
        """Yield the matching files of one folder, and add its matching subfolders to the steps."""
        part, parts_below = step.parts[0], step.parts[1:]
        if part == _ANY_DEPTH:
            steps.append(_Step(step.folder, parts_below or ("*",)))
            part, parts_below = "*", step.parts
        elif not set(part) & set("*?["):
            yield from self._enter_named(step.folder / part, parts_below, steps)
            return
        for entry in self._matching(step.folder, part):
            if parts_below:
                (linked if entry.is_symlink() else steps).append(_Step(step.folder / entry.name, parts_below))
            elif _is_file(entry):
                yield str(step.folder / entry.name)

    def _enter_named(self, path: Path, parts_below: tuple[str, ...], steps: list[_Step]) -> Iterator[str]:
        """Do the same for a part without wildcards, without reading the folder."""
        self._entries -= 1
        if parts_below:
            steps.append(_Step(path, parts_below))
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
            self._warn(str(folder), error.strerror)
        except OSError:
            pass  # the folder has just been removed
        return sorted(found, key=lambda entry: entry.name, reverse=True)


def _is_new(step: _Step, seen: set[_Visit]) -> bool:
    try:
        status = step.folder.stat()
    except OSError:  # the folder was removed, or the link is broken
        return False
    visit = (status.st_dev, status.st_ino, step.parts)
    is_new = stat.S_ISDIR(status.st_mode) and visit not in seen
    seen.add(visit)
    return is_new


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False
