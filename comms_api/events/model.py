"""Events, as batches contain them and as operators see them."""

from datetime import datetime
from typing import TypeAlias
from uuid import UUID

import msgspec

from comms_api.batches.keys import BatchKey

QuarantinedRow: TypeAlias = tuple[UUID, UUID, str, bytes, int]
"""A row of the quarantine: its id, its agent, the reason, the line's first bytes, and its whole length."""

EVENT_BYTES_MAXIMUM = 4 * 2**20
QUARANTINED_LINE_BYTES_MAXIMUM = 8 * 1024
QUARANTINED_LINES_MAXIMUM = 1_000


class Quarantined(msgspec.Struct, frozen=True):
    """A line of a stateless batch that could not be stored as an event; only its first bytes are kept."""

    reason: str
    line: bytes


class EventRun(msgspec.Struct, frozen=True):
    """Consecutive event lines of one module and collector."""

    module: str
    collector: str
    lines: list[bytes]


class StatelessBatch(msgspec.Struct, frozen=True):
    """The contents of a stateless body."""

    runs: list[EventRun]
    quarantined: list[Quarantined]
    hidden: int = 0
    """The number of further quarantined lines, of which only this number is kept."""


class EventBatch(msgspec.Struct, frozen=True):
    """A batch as it is stored; the id of its event n, counted from 0, is `id + n`."""

    id: UUID
    agent_id: UUID
    events: int
    """The number of events."""

    streams: str | None
    """The collectors of each module, as JSON; None if they are too many."""

    content: bytes
    """The events, as `contents` encodes them."""

    key: BatchKey | None = None
    """Its idempotency key: a batch is stored once for each key. A batch that is read has none."""


class Event(msgspec.Struct, frozen=True):
    """A stored event."""

    id: UUID
    agent_id: UUID
    module: str
    collector: str
    received_at: datetime
    event: msgspec.Raw


class QuarantinedEvent(msgspec.Struct, frozen=True):
    """A quarantined line as operators see it; bytes that are not UTF-8 are shown escaped."""

    id: UUID
    agent_id: UUID
    received_at: datetime
    reason: str
    line: str
    line_bytes: int


class StreamUse(msgspec.Struct, frozen=True):
    """The stored bytes of the event stream, its limit, and the copies that are not up to date."""

    stored_bytes: int
    bytes_maximum: int
    late_copies: int
