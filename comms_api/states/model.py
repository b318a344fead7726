"""States, as batches change them and as operators see them."""

from collections.abc import Sequence
from datetime import datetime
from typing import TypeAlias
from uuid import UUID

import msgspec

from comms_api.batches.keys import BatchKey
from comms_api.protocol import ItemResult, Operation

StateKey: TypeAlias = tuple[str, str, str, str]
"""Agent, module, collector, id: an agent can never touch another's state.

All are texts, because Python caches the hash of a text, but not of a UUID.
"""

StateCursor: TypeAlias = tuple[UUID, str, str, str]
"""The key of the last state on a page: agent, module, collector, id, as the table stores them."""

STATE_ID_BYTES_MAXIMUM = 512
STATE_BYTES_MAXIMUM = 2**20
FAULT_CHARACTERS_MAXIMUM = 200
"""The longest reason in the result of an item."""

FAULTS_CHARACTERS_MAXIMUM = 2**20
"""The limit for all reasons of a batch together."""

STATEFUL_COLLECTORS = {
    "fim": None,
    "inventory": {"hardware", "hotfixes", "packages", "networks", "system", "ports", "processes"},
    "sca": None,
    "vulnerability": None,
    "command": None,
}
"""The stateful modules and, where they are fixed, their collectors."""


class StateFilter(msgspec.Struct, frozen=True):
    """Selects states; a field that is None matches every state."""

    agent_id: UUID | None = None
    module: str | None = None
    contains: str | None = None
    """A part of the id or of the JSON text of the state."""


class StateChange(msgspec.Struct, frozen=True, gc=False):
    """One item of a stateful batch; `data` is the JSON object to create or merge, None for a delete."""

    index: int
    key: StateKey
    operation: Operation
    data: bytes | None = None

    def outcome(self, result: str, status: int) -> ItemResult:
        """Return the result of this item, for the agent."""
        return ItemResult(self.index, self.key[3], result[:FAULT_CHARACTERS_MAXIMUM], status)


class ReasonBudget:
    """The characters left for the reasons of one batch, which keep its answer small for any number of faults."""

    def __init__(self) -> None:
        self._left = FAULTS_CHARACTERS_MAXIMUM

    def cut(self, text: str) -> str:
        """Return a reason, shortened for the agent."""
        shown = text[:FAULT_CHARACTERS_MAXIMUM]
        self._left -= len(shown)
        return shown if self._left >= 0 else "faulty"


class StatefulBatch(msgspec.Struct, frozen=True):
    """The items of a stateful body: the changes to apply, and the results of faulty items."""

    changes: list[StateChange]
    refused: list[ItemResult]


class BatchChanges(msgspec.Struct, frozen=True):
    """The changes of states in a batch, or in a part of one."""

    agent_id: str
    changes: Sequence[StateChange]
    sequence: int | None = None
    """The number of the batch, if its agent numbers batches."""

    key: BatchKey | None = None
    """The idempotency key of the whole batch."""


class State(msgspec.Struct, frozen=True):
    """A stored state."""

    agent_id: UUID
    module: str
    collector: str
    id: str
    data: msgspec.Raw
    created_at: datetime
    updated_at: datetime
