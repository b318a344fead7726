"""Cut the body of a batch into windows of lines.

A batch is lines of JSON. A body without a readable metadata line is `Malformed`. An invalid item never fails the other
items, since a real agent would resend the same batch forever. A byte that is not UTF-8 invalidates only its line. To
keep each step short, `events/stateless` and `states/stateful` read one window at a time.
"""

import re
from collections.abc import Iterator

import msgspec

from comms_api.errors import Malformed, TooLarge
from comms_api.fairness.slices import Steps
from comms_api.protocol import StatelessHeader

NAME_BYTES_MAXIMUM = 128
HEADER_BYTES_MAXIMUM = 4 * 1024
METADATA_BYTES_MAXIMUM = 2**20

WINDOW_BYTES = 32 * 1024
WINDOW_LINES = 64
"""A window ends with the line that exceeds its bytes, or after this many lines."""

COUNTED_BYTES = 256 * 1024
"""Lines are counted in steps of this many bytes."""

CHECKED_BYTES_MAXIMUM = 8 * 2**20
"""A longer window contains a line that is too long and will be refused, so the window is not decoded."""


class _Agent(msgspec.Struct, frozen=True):
    id: str


class _Metadata(msgspec.Struct, frozen=True):
    """The only member of the metadata line that is read; a fault in another member must not block an agent's queue."""

    agent: _Agent


class Window(msgspec.Struct, frozen=True):
    """Consecutive lines of a batch, stripped; some may be empty."""

    first_number: int
    """The number of the first line in the body, from 1."""

    lines: list[bytes]
    is_utf8: bool
    """Whether every line is UTF-8, which JSON decoders check only in the texts that they return."""


_ANY = msgspec.json.Decoder(msgspec.Raw)
_METADATA = msgspec.json.Decoder(_Metadata)
_STATELESS_HEADER = msgspec.json.Decoder(StatelessHeader)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")


def metadata_line(body: bytes) -> bytes:
    """Return the first line of a body; raises `Malformed` if it is too long."""
    first = body[: _end_of_line(body, 0)]
    if len(first) > METADATA_BYTES_MAXIMUM:
        raise Malformed(f"line 1: expected metadata of at most {METADATA_BYTES_MAXIMUM} bytes")
    return first


def read_owner(line: bytes) -> str:
    """Return the agent in the metadata line; raises `Malformed` without a readable id."""
    try:
        return _METADATA.decode(_SURROGATE.sub(rb"\\ufffd", line)).agent.id  # a name may contain half a surrogate pair
    except (ValueError, RecursionError) as error:
        raise Malformed(f'line 1: expected the metadata {{"agent": {{"id": …}}}}: {error}') from None


def count_lines(body: bytes, items_maximum: int) -> Steps[int]:
    """Count the line feeds; raises `TooLarge` if there are too many for `items_maximum` items."""
    lines = 0
    for start in range(0, len(body), COUNTED_BYTES):
        lines += body.count(b"\n", start, start + COUNTED_BYTES)
        _refuse_if_more(lines, items_maximum)
        yield None
    return lines


def windows(body: bytes, items_maximum: int) -> Iterator[Window]:
    """Yield the lines after the metadata line; raises `TooLarge` if there are too many for `items_maximum` items."""
    start, number = _end_of_line(body, 0) + 1, 2
    while start < len(body):
        end = _end_of_line(body, start + WINDOW_BYTES)
        piece = body[start:end]
        is_utf8 = len(piece) <= CHECKED_BYTES_MAXIMUM and utf8_fault(piece) is None
        lines = piece.split(b"\n")
        for offset in range(0, len(lines), WINDOW_LINES):
            yield Window(number + offset, [line.strip() for line in lines[offset : offset + WINDOW_LINES]], is_utf8)
        start, number = end + 1, number + len(lines)
        _refuse_if_more(number - 2, items_maximum)


def _refuse_if_more(line_feeds: int, items_maximum: int) -> None:
    if line_feeds > 2 * items_maximum + 1:  # an item has two lines at most, and the metadata line counts
        raise TooLarge(f"The batch has more than {items_maximum} items.")


def _end_of_line(body: bytes, position: int) -> int:
    end = body.find(b"\n", position)
    return len(body) if end < 0 else end


def utf8_fault(data: bytes) -> str | None:
    """Return why the bytes are not UTF-8, or None."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return f"not UTF-8 at byte {error.start}"
    return None


def object_fault(line: bytes) -> str | None:
    """Return why a line is not a JSON object, or None."""
    if (fault := utf8_fault(line)) is not None:
        return fault
    try:
        _ANY.decode(line)
    except msgspec.DecodeError as error:
        return str(error)
    except RecursionError:
        return "nested too deeply"
    return None if line.startswith(b"{") else "not a JSON object"


def name_fault(*names: str) -> str | None:
    """Return why a module or collector cannot be stored, or None."""
    for name in names:
        if "\0" in name or len(name.encode()) > NAME_BYTES_MAXIMUM:
            return f"module and collector must have at most {NAME_BYTES_MAXIMUM} bytes and no NUL"
    return None


def as_utf8(line: bytes) -> bytes:
    """Return a decodable form of a line, so that a header with a broken name still ends the run before it."""
    return line.decode(errors="replace").encode()


def may_have(member: bytes, line: bytes) -> bool:
    """Return whether the line may contain a member with this name; the name may be written with escapes."""
    return member in line or b"\\u" in line


def find_stateless_header(line: bytes) -> StatelessHeader | None:
    """Return the sub-header in a line of a stateless batch; None if the line is anything else."""
    if len(line) > HEADER_BYTES_MAXIMUM or not may_have(b'"module"', line):
        return None
    try:
        return _STATELESS_HEADER.decode(as_utf8(line))
    except (msgspec.DecodeError, RecursionError):
        return None  # it is an event that has a member `module`
