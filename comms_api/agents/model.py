"""An agent as operators see it."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

import msgspec

from comms_api.protocol import GroupName, Labels

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
    external_id: str | None
    allowed_addresses: list[str]
    is_blocked: bool
    configuration: str | None
    status: AgentStatus
    remote_address: str | None
    node: str | None
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
    in_sync: bool | None = None
    """Whether it says that it runs the files of its groups as they are now; without files there is nothing to run."""
    node: str | None = None
    """The node that saw it last."""


Networks = Annotated[list[str], msgspec.Meta(max_length=32)]
"""Source addresses as CIDR, IPv4 or IPv6; none given: any address."""


class AgentChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What an operator changes of an agent; blocking it or narrowing its addresses ends its tokens."""

    labels: Labels | None = None
    allowed_addresses: Networks | None = None
    is_blocked: bool | None = None


class NewKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An agent's next key; without one, the server makes it up."""

    key: str | None = None


class AgentKey(msgspec.Struct, frozen=True):
    """An agent's new key: shown this once."""

    id: UUID
    key: str


class Admission(msgspec.Struct, frozen=True):
    """What a login is decided by."""

    id: UUID
    key_hash: bytes
    is_blocked: bool
    allowed_addresses: list[str]
    is_external: bool


class NewEnrollmentToken(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A token that enrolls agents: into which groups, how often, and for how long."""

    expires_in: Annotated[float, msgspec.Meta(gt=0, le=365 * 86_400)]
    groups: tuple[GroupName, ...] = ()
    uses: Annotated[int, msgspec.Meta(ge=1)] | None = None
    description: Annotated[str, msgspec.Meta(max_length=256)] = ""


class MadeEnrollmentToken(msgspec.Struct, frozen=True):
    """A new enrollment token: shown this once."""

    id: UUID
    token: str


class EnrollmentToken(msgspec.Struct, frozen=True):
    """An enrollment token as administrators see it."""

    id: UUID
    description: str
    groups: list[str]
    uses_left: int | None
    user_name: str
    created_at: datetime
    expires_at: datetime


class Sighting(msgspec.Struct, frozen=True):
    """That an agent made a request just now."""

    remote_address: str | None
    logged_in: bool = False
