"""Read the headers for cached and partial files (RFC 9110, sections 13.1.2 and 14.2)."""

import re
from typing import Literal

import msgspec

_SINGLE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


class Range(msgspec.Struct, frozen=True):
    """The first and the last byte of a part, counted from 0."""

    first: int
    last: int


def is_known(if_none_match: str | None, tag: str) -> bool:
    """Return whether the header names the tag, weakly or strongly, or any."""
    if if_none_match is None:
        return False
    names = [name.strip().removeprefix("W/") for name in if_none_match.split(",")]
    return tag in names or "*" in names


def read_range(header: str | None, size: int) -> Range | Literal["beyond"] | None:
    """Return the requested part; `beyond` if it is outside the file, or None for the whole file.

    A header that is invalid, has another unit, or requests several parts is ignored, as the RFC allows.
    """
    found = _SINGLE.fullmatch((header or "").strip())
    if found is None or found.groups() == ("", ""):
        return None
    first, last = found.groups()
    if not first:  # the last N bytes
        return Range(max(0, size - int(last)), size - 1) if int(last) and size else "beyond"
    if last and int(last) < int(first):
        return None
    if int(first) >= size:
        return "beyond"
    return Range(int(first), min(int(last) if last else size - 1, size - 1))
