"""Tell the items of a batch apart, however its bytes were split on the way.

A batch is lines of JSON. A body without a readable metadata line is `Malformed`. A fault of one item never fails the
others, since a real agent would send the same batch again for ever: a line that is not a header, where a header is due,
is one bad item up to the next header; a byte that is not UTF-8 is a fault of its line alone.
"""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from uuid import UUID

import msgspec

from comms_api.errors import Malformed, TooLarge
from comms_api.events.model import (
    NAME_BYTES_MAXIMUM,
    STATE_BYTES_MAXIMUM,
    STATE_ID_BYTES_MAXIMUM,
    STATEFUL_COLLECTORS,
    Batch,
    EventRun,
    Quarantined,
    StateChange,
    StatefulBatch,
    StatelessBatch,
)
from comms_api.protocol import ItemResult, StatefulHeader, StatelessHeader

HEADER_BYTES_MAXIMUM = 4 * 1024


class _Agent(msgspec.Struct, frozen=True):
    id: str


class _Metadata(msgspec.Struct, frozen=True):
    """The one member of the metadata line that counts; a fault in another must not block an agent's queue."""

    agent: _Agent


_ABSENT = msgspec.Raw(b"")


class _Shape(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The members of a stateful header, whatever their values."""

    id: msgspec.Raw = _ABSENT
    module: msgspec.Raw = _ABSENT
    collector: msgspec.Raw = _ABSENT
    operation: msgspec.Raw = _ABSENT


class _Object(msgspec.Struct, frozen=True):
    """Any JSON object; its members are passed over but for those that a header has."""

    module: msgspec.Raw = _ABSENT
    operation: msgspec.Raw = _ABSENT

    @property
    def is_plain(self) -> bool:
        """Whether it cannot be a header."""
        return self.module is _ABSENT and self.operation is _ABSENT


_ANY = msgspec.json.Decoder(msgspec.Raw)
_OBJECT = msgspec.json.Decoder(_Object)
_METADATA = msgspec.json.Decoder(_Metadata)
_STATELESS_HEADER = msgspec.json.Decoder(StatelessHeader)
_STATEFUL_HEADER = msgspec.json.Decoder(StatefulHeader)
_SHAPE = msgspec.json.Decoder(_Shape)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")


def split_batch(body: bytes, items_maximum: int) -> Batch:
    """Split a body into lines.

    Raises `Malformed` for a metadata line without a readable id, `TooLarge` for more than `items_maximum` items.
    """
    first, *lines = body.split(b"\n", 2 * items_maximum + 1)
    if len(lines) > 2 * items_maximum:
        raise TooLarge(f"The batch has more than {items_maximum} items.")
    try:
        agent_id = _METADATA.decode(_SURROGATE.sub(rb"\\ufffd", first)).agent.id  # a name may hold half a pair
    except (ValueError, RecursionError) as error:
        raise Malformed(f'line 1: expected the metadata {{"agent": {{"id": …}}}}: {error}') from None
    return Batch(agent_id, [line.strip() for line in lines], _utf8_fault(body) is None)


def _utf8_fault(data: bytes) -> str | None:
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return f"not UTF-8 at byte {error.start}"
    return None


def read_stateless(batch: Batch) -> StatelessBatch:
    """Sort the lines of a stateless batch into runs of events and lines for the quarantine."""
    filled = [line for line in batch.lines if line]
    return (_read_faultless(filled) if batch.is_utf8 else None) or _read_line_by_line(filled)


def _read_faultless(lines: Sequence[bytes]) -> StatelessBatch | None:
    """Read the batch that nearly all agents send: a header, and events behind it, all of them good."""
    first, *events = lines or [b""]
    header = _find_stateless_header(first)
    if header is None or _name_fault(header.module, header.collector):
        return None
    try:
        for line in events:
            if _OBJECT.decode(line).module is not _ABSENT:
                return None  # it may be a header
    except (msgspec.DecodeError, RecursionError):
        return None
    return StatelessBatch([EventRun(header.module, header.collector, events)] if events else [], [])


def _read_line_by_line(lines: Sequence[bytes]) -> StatelessBatch:
    runs: list[EventRun] = []
    quarantined: list[Quarantined] = []
    problem: str | None = "no sub-header line before it"
    for line in lines:
        fault, header = _fault(line), _find_stateless_header(line)
        if header is not None:
            problem = _name_fault(header.module, header.collector)
            runs.append(EventRun(header.module, header.collector, []))
        if fault is not None:
            quarantined.append(Quarantined(fault, line))
        elif header is None and problem is not None:
            quarantined.append(Quarantined(problem, line))
        elif header is None:
            runs[-1].lines.append(line)
    return StatelessBatch([run for run in runs if run.lines], quarantined)


def _fault(line: bytes) -> str | None:
    if (fault := _utf8_fault(line)) is not None:
        return fault
    try:
        _ANY.decode(line)
    except msgspec.DecodeError as error:
        return str(error)
    except RecursionError:
        return "nested too deeply"
    return None if line.startswith(b"{") else "not a JSON object"


def _find_stateless_header(line: bytes) -> StatelessHeader | None:
    if len(line) > HEADER_BYTES_MAXIMUM or not _may_have(b'"module"', line):
        return None
    try:
        return _STATELESS_HEADER.decode(_as_utf8(line))
    except (msgspec.DecodeError, RecursionError):
        return None  # an event that has a member of that name


def _as_utf8(line: bytes) -> bytes:
    """Return a line that can be decoded, so that a header with a broken name still separates its neighbours."""
    return line.decode(errors="replace").encode()


def _may_have(member: bytes, line: bytes) -> bool:
    """Return whether decoding the line can show a member of that name, which may be written with escapes."""
    return member in line or b"\\u" in line


def _name_fault(*names: str) -> str | None:
    for name in names:
        if "\0" in name or len(name.encode()) > NAME_BYTES_MAXIMUM:
            return f"module and collector must have up to {NAME_BYTES_MAXIMUM} bytes and no NUL"
    return None


def read_stateful(agent_id: UUID, batch: Batch) -> StatefulBatch:
    """Read the items of a stateful batch."""
    try:
        if batch.is_utf8:
            return StatefulBatch(list(_read_faultless_items(agent_id, batch.lines)), [])
    except (ValueError, RecursionError):
        pass
    return _read_item_by_item(agent_id, batch.lines)


def _read_faultless_items(agent_id: UUID, lines: Sequence[bytes]) -> Iterator[StateChange]:
    """Read the batch that nearly all agents send: headers and their data, all of them good; or raise `ValueError`."""
    owner, filled = str(agent_id), filter(None, lines)
    for index, line in enumerate(filled):
        header, data = _STATEFUL_HEADER.decode(line), None
        if header.operation != "delete":
            data = next(filled, b"")
            if not _OBJECT.decode(data).is_plain:
                raise ValueError("it may be a header")
        if len(line) > HEADER_BYTES_MAXIMUM or len(data or b"") > STATE_BYTES_MAXIMUM or _header_fault(header):
            raise ValueError("a fault that its agent must be told of")
        yield StateChange(index, (owner, header.module, header.collector, header.id), header.operation, data)


def _read_item_by_item(agent_id: UUID, lines: Sequence[bytes]) -> StatefulBatch:
    owner = str(agent_id)
    changes: list[StateChange] = []
    refused: list[ItemResult] = []
    for index, item in enumerate(_pair(lines)):
        header = item.header
        fault = _fault_of(item)
        if header is None or fault is not None:
            refused.append(ItemResult(index, header.id if header else "", fault or "", 400))
        else:
            key = (owner, header.module, header.collector, header.id)
            data = None if header.operation == "delete" else item.data or b"{}"
            changes.append(StateChange(index, key, header.operation, data))
    return StatefulBatch(changes, refused)


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


def _pair(lines: Sequence[bytes]) -> list[_Item]:
    items: list[_Item] = []
    for number, line in enumerate(lines, start=2):
        if not line:
            continue
        header = _find_stateful_header(line)
        if header is None and items and items[-1].takes(line):
            items[-1].data = line
        else:
            items.append(_Item(number, line, header, header is not None or _is_header_shaped(line)))
    return items


def _find_stateful_header(line: bytes) -> StatefulHeader | None:
    if len(line) > HEADER_BYTES_MAXIMUM or not _may_have(b'"operation"', line):
        return None
    try:
        return _STATEFUL_HEADER.decode(_as_utf8(line))
    except (msgspec.DecodeError, RecursionError):
        return None


def _is_header_shaped(line: bytes) -> bool:
    """Return whether a line is a header, complete or not: it has two of a header's members and no others."""
    if len(line) > HEADER_BYTES_MAXIMUM or not (_may_have(b'"module"', line) or _may_have(b'"operation"', line)):
        return False
    try:
        shape = _SHAPE.decode(_as_utf8(line))
    except (msgspec.DecodeError, RecursionError):
        return False
    return sum(member is not _ABSENT for member in (shape.id, shape.module, shape.operation)) >= 2  # noqa: PLR2004


def _fault_of(item: _Item) -> str | None:
    if (fault := _utf8_fault(item.line)) is not None:
        return f"line {item.number}: {fault}"
    if item.header is not None:
        return _header_fault(item.header) or _data_fault(item.data)
    try:
        _STATEFUL_HEADER.decode(item.line)
    except msgspec.DecodeError as error:
        return f"line {item.number}: expected a header: {error}"
    except RecursionError:
        return f"line {item.number}: nested too deeply"
    return f"line {item.number}: expected a header of up to {HEADER_BYTES_MAXIMUM} bytes"


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
    return _name_fault(collector)


def _data_fault(data: bytes | None) -> str | None:
    if data is None:
        return None
    if len(data) > STATE_BYTES_MAXIMUM:
        return f"data: larger than {STATE_BYTES_MAXIMUM} bytes"
    return (fault := _fault(data)) and f"data: {fault}"
