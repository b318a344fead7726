"""A selection of agents, and the action on it."""

from datetime import datetime
from typing import Literal
from uuid import UUID

import msgspec

from comms_api.agents.model import AgentStatus

AGENTS_MAXIMUM = 100_000
"""The maximum number of agents of a selection."""

SELECTIONS_MAXIMUM = 8
"""The maximum number of selections of a user; a new one replaces the oldest."""

Action = Literal["block", "unblock", "join", "leave"]
"""Block or unblock the agents, or add them to a group or remove them from it."""


class Selection(msgspec.Struct, frozen=True):
    """A frozen set of agents, and the progress of the last action on it.

    `examined` agents have been acted on; `changed` of them were different before.
    """

    id: UUID
    query: str | None
    """The query string of the list whose matching agents were selected; None if the agents were chosen one by one."""

    agents: int
    created_at: datetime
    expires_at: datetime
    action: Action | None
    group: str | None
    examined: int
    changed: int
    fault: str | None
    """The reason why the action ended before all agents were examined."""

    ended_at: datetime | None

    @property
    def is_running(self) -> bool:
        """Whether an action is under way."""
        return self.action is not None and self.ended_at is None


class SelectedAgent(msgspec.Struct, frozen=True):
    """An agent of a selection; without a name and a status if it has been deleted since."""

    id: UUID
    name: str | None
    status: AgentStatus | None
    is_blocked: bool | None


class Step(msgspec.Struct, frozen=True):
    """The next agents of an action, and the user on whose behalf it changes them."""

    selection_id: UUID
    user: str
    address: str | None
    action: Action
    group: str | None
    ids: list[UUID]
