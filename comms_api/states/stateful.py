"""Read stateful batches: pair headers with their data lines.

A line that is not a header, where a header is due, is one bad item up to the next header.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache

import msgspec

from comms_api.batches.framing import (
    HEADER_BYTES_MAXIMUM,
    Window,
    as_utf8,
    may_have,
    name_fault,
    object_fault,
    utf8_fault,
    windows,
)
from comms_api.fairness.slices import Steps
from comms_api.protocol import ItemResult, StatefulHeader
from comms_api.states.model import (
    STATE_BYTES_MAXIMUM,
    STATE_ID_BYTES_MAXIMUM,
    STATEFUL_COLLECTORS,
    ReasonBudget,
    StateChange,
    StatefulBatch,
)

_ABSENT = msgspec.Raw(b"")


class _Shape(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The members of a header, whatever their values."""

    id: msgspec.Raw = _ABSENT
    module: msgspec.Raw = _ABSENT
    collector: msgspec.Raw = _ABSENT
    operation: msgspec.Raw = _ABSENT


class _Object(msgspec.Struct, frozen=True):
    """Any JSON object; all members except a header's are ignored."""

    module: msgspec.Raw = _ABSENT
    operation: msgspec.Raw = _ABSENT

    @property
    def is_plain(self) -> bool:
        """Whether it cannot be a header."""
        return self.module is _ABSENT and self.operation is _ABSENT


_OBJECT = msgspec.json.Decoder(_Object)
_HEADER = msgspec.json.Decoder(StatefulHeader)
_SHAPE = msgspec.json.Decoder(_Shape)


class _Item(msgspec.Struct):
    """A header line and, if it has one, its data line."""

    number: int
    line: bytes
    header: StatefulHeader | None
    is_shaped: bool
    data: bytes | None = None

    def takes(self, line: bytes) -> bool:
        """Return whether a following line that is not a complete header belongs to this item."""
        if self.header is not None:
            return self.data is None and self.header.operation != "delete"
        return not _is_header_shaped(line) and (self.data is None or not self.is_shaped)


def read_stateful(owner: str, body: bytes, items_maximum: int) -> Steps[StatefulBatch]:
    """Read a body whose owner has been checked; raises `TooLarge` for too many lines."""
    reader = StatefulReader(owner)
    for window in windows(body, items_maximum):
        reader.read(window)
        yield None
    return reader.finish()


class StatefulReader:
    """The contents of the windows so far."""

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._changes: list[StateChange] = []
        self._refused: list[ItemResult] = []
        self._reasons = ReasonBudget()
        self._open: _Item | None = None
        """The last item, which may take more lines."""

        self._unread: list[bytes] = []
        """A valid header at the end of a window; its data line is in the next one."""

    def read(self, window: Window) -> None:
        """Read the next lines of a batch."""
        lines, first_number = [*self._unread, *window.lines], window.first_number - len(self._unread)
        self._unread = []
        if window.is_utf8 and self._read_faultless(list(filter(None, lines))):
            return
        self.read_line_by_line(first_number, lines)

    def _read_faultless(self, filled: list[bytes]) -> bool:
        """Read a window of valid headers and data, as nearly all agents send, or return False."""
        try:
            changes = list(self._faultless(filled, len(self._changes) + len(self._refused) + bool(self._open)))
        except (ValueError, RecursionError):
            return False
        if changes:
            self._close()
            self._changes += changes
        return True

    def _faultless(self, filled: list[bytes], first_index: int) -> Iterator[StateChange]:
        lines = iter(filled)
        for index, line in enumerate(lines, first_index):
            header, data = _HEADER.decode(line), None
            if len(line) > HEADER_BYTES_MAXIMUM or _header_fault(header):
                raise ValueError("a fault to report to the agent")
            if header.operation != "delete":
                data = next(lines, None)
                if data is None:
                    self._unread = [line]
                    return
                if len(data) > STATE_BYTES_MAXIMUM or not _OBJECT.decode(data).is_plain:
                    raise ValueError("a possible header, or a fault to report to the agent")
            key = (self._owner, header.module, header.collector, header.id)
            yield StateChange(index, key, header.operation, data)

    def read_line_by_line(self, first_number: int, lines: Sequence[bytes]) -> None:
        """Read lines of any kind."""
        for number, line in enumerate(lines, first_number):
            if not line:
                continue
            header = _find_header(line)
            if header is None and self._open is not None and self._open.takes(line):
                self._open.data = line
            else:
                self._close()
                self._open = _Item(number, line, header, header is not None or _is_header_shaped(line))

    def finish(self) -> StatefulBatch:
        """Return the whole batch."""
        self.read_line_by_line(0, self._unread)
        self._close()
        return StatefulBatch(self._changes, self._refused)

    def _close(self) -> None:
        """Take the open item: no more lines belong to it."""
        item, self._open = self._open, None
        if item is None:
            return
        index, header, fault = len(self._changes) + len(self._refused), item.header, _fault_of(item)
        if header is None or fault is not None:
            id_ = header.id[:STATE_ID_BYTES_MAXIMUM] if header else ""
            self._refused.append(ItemResult(index, id_, self._reasons.cut(fault or ""), 400))
        else:
            key = (self._owner, header.module, header.collector, header.id)
            data = None if header.operation == "delete" else item.data or b"{}"
            self._changes.append(StateChange(index, key, header.operation, data))


def _find_header(line: bytes) -> StatefulHeader | None:
    if len(line) > HEADER_BYTES_MAXIMUM or not may_have(b'"operation"', line):
        return None
    try:
        return _HEADER.decode(as_utf8(line))
    except (msgspec.DecodeError, RecursionError):
        return None


def _is_header_shaped(line: bytes) -> bool:
    """Return whether a line is a header, complete or not: it has two of a header's members and no others."""
    if len(line) > HEADER_BYTES_MAXIMUM or not (may_have(b'"module"', line) or may_have(b'"operation"', line)):
        return False
    try:
        shape = _SHAPE.decode(as_utf8(line))
    except (msgspec.DecodeError, RecursionError):
        return False
    return sum(member is not _ABSENT for member in (shape.id, shape.module, shape.operation)) >= 2  # noqa: PLR2004


def _fault_of(item: _Item) -> str | None:
    if item.header is None and len(item.line) > HEADER_BYTES_MAXIMUM:
        return f"line {item.number}: expected a header of up to {HEADER_BYTES_MAXIMUM} bytes"
    if (fault := utf8_fault(item.line)) is not None:
        return f"line {item.number}: {fault}"
    if item.header is not None:
        return _header_fault(item.header) or _data_fault(item.data)
    try:
        _HEADER.decode(item.line)
    except msgspec.DecodeError as error:
        return f"line {item.number}: expected a header: {error}"
    except RecursionError:
        return f"line {item.number}: nested too deeply"
    return f"line {item.number}: expected a header"


def _header_fault(header: StatefulHeader) -> str | None:
    if not header.id or "\0" in header.id or len(header.id.encode()) > STATE_ID_BYTES_MAXIMUM:
        return f"id: must have 1 to {STATE_ID_BYTES_MAXIMUM} bytes and no NUL"
    return _collector_fault(header.module, header.collector)


@lru_cache(256)
def _collector_fault(module: str, collector: str) -> str | None:
    if module not in STATEFUL_COLLECTORS:
        return f"module: must be one of {', '.join(STATEFUL_COLLECTORS)}"
    collectors = STATEFUL_COLLECTORS[module]
    if collectors is not None and collector not in collectors:
        return f"collector: must be one of {', '.join(sorted(collectors))}"
    return name_fault(collector)


def _data_fault(data: bytes | None) -> str | None:
    if data is None:
        return None
    if len(data) > STATE_BYTES_MAXIMUM:
        return f"data: larger than {STATE_BYTES_MAXIMUM} bytes"
    return (fault := object_fault(data)) and f"data: {fault}"
