"""Events and states, on their way in and as operators see them."""

from datetime import datetime
from typing import TypeAlias
from uuid import UUID

import msgspec

from comms_api.protocol import ItemResult, Operation

StateKey: TypeAlias = tuple[str, str, str, str]
"""Agent, module, collector, id: an agent can never touch another's state. A text's hash is kept, a UUID's is not."""

StatePlace: TypeAlias = tuple[UUID, str, str, str]
"""The same as the table has it: where a page of states ends."""

QuarantinedRow: TypeAlias = tuple[UUID, UUID, str, bytes, int]
"""A row of the quarantine: its id, its agent, the reason, the line's first bytes, and its whole length."""

NAME_BYTES_MAXIMUM = 128
STATE_ID_BYTES_MAXIMUM = 512
STATE_BYTES_MAXIMUM = 2**20
EVENT_BYTES_MAXIMUM = 4 * 2**20
QUARANTINED_LINE_BYTES_MAXIMUM = 8 * 1024
QUARANTINED_LINES_MAXIMUM = 1_000
FAULT_CHARACTERS_MAXIMUM = 200
FAULTS_CHARACTERS_MAXIMUM = 2**20
"""The longest reason, and the limit for all reasons of a batch together."""

STATEFUL_COLLECTORS = {
    "fim": None,
    "inventory": {"hardware", "hotfixes", "packages", "networks", "system", "ports", "processes"},
    "sca": None,
    "vulnerability": None,
    "command": None,
}
"""The stateful modules and, where they are fixed, their collectors."""


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
    """A stateless body, read."""

    runs: list[EventRun]
    quarantined: list[Quarantined]
    hidden: int = 0
    """How many more lines belong in the quarantine; only their number is kept."""


class StateChange(msgspec.Struct, frozen=True, gc=False):
    """One item of a stateful batch; `data` is the JSON object to create or merge, None for a delete."""

    index: int
    key: StateKey
    operation: Operation
    data: bytes | None = None
    sequence: int | None = None
    """The number of its batch, if its agent numbers batches."""

    def outcome(self, result: str, status: int) -> ItemResult:
        """Return what the agent is told about this item."""
        return ItemResult(self.index, self.key[3], result[:FAULT_CHARACTERS_MAXIMUM], status)


class Texts:
    """Cuts the reasons of one batch, so that the answer stays small for any number of faults."""

    def __init__(self) -> None:
        """Start with the limit that all reasons of a batch share."""
        self._left = FAULTS_CHARACTERS_MAXIMUM

    def cut(self, text: str) -> str:
        """Return the reason for the agent."""
        shown = text[:FAULT_CHARACTERS_MAXIMUM]
        self._left -= len(shown)
        return shown if self._left >= 0 else "faulty"


class StatefulBatch(msgspec.Struct, frozen=True):
    """A stateful body, read: the items that can be applied and the answers of those that cannot."""

    changes: list[StateChange]
    refused: list[ItemResult]


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


class State(msgspec.Struct, frozen=True):
    """A stored state."""

    agent_id: UUID
    module: str
    collector: str
    id: str
    data: msgspec.Raw
    created_at: datetime
    updated_at: datetime
