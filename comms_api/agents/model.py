"""An agent as operators see it."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

import msgspec

from comms_api.protocol import Labels

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
    labels: msgspec.Raw
    status: AgentStatus
    remote_address: str | None
    created_at: datetime
    last_login_at: datetime | None
    last_seen_at: datetime | None


Pattern = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


class AgentFilter(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Which agents are meant: those that match every field that is given.

    In `name`, `os` (the name or the type of the system) and `version` a `*` stands for anything; case is ignored, but
    not in a whole name.
    """

    name: Pattern | None = None
    group: str | None = None
    status: AgentStatus | None = None
    os: Pattern | None = None
    version: Pattern | None = None
    labels: Labels = {}


class AgentChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an operator changes of an agent."""

    labels: Labels


class Sighting(msgspec.Struct, frozen=True):
    """That an agent made a request just now."""

    remote_address: str | None
    logged_in: bool = False
