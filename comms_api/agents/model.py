"""An agent as operators see it."""

from datetime import datetime
from typing import Literal
from uuid import UUID

import msgspec

AgentStatus = Literal["active", "disconnected", "never_connected"]

DISCONNECTED_AFTER_SECONDS = 900
"""How long an agent may be silent and still count as active: a poll is a sign of life each minute."""


class Agent(msgspec.Struct, frozen=True):
    """One enrolled agent; its key is never shown."""

    id: UUID
    name: str
    groups: list[str]
    type: str
    version: str
    host: msgspec.Raw
    status: AgentStatus
    remote_address: str | None
    created_at: datetime
    last_login_at: datetime | None
    last_seen_at: datetime | None


class AgentFilter(msgspec.Struct, frozen=True):
    """Which agents to list; an empty field asks for nothing."""

    name: str | None = None
    group: str | None = None
    status: AgentStatus | None = None


class Sighting(msgspec.Struct, frozen=True):
    """That an agent made a request just now."""

    remote_address: str | None
    logged_in: bool = False
