"""An agent as operators see it."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

import msgspec

from comms_api.protocol import GroupName, Label, Labels, Text
from comms_api.text.printable import WITHOUT_NUL

AgentStatus = Literal["active", "disconnected", "never_connected"]


class Agent(msgspec.Struct, frozen=True):
    """One enrolled agent; its key is never shown.

    An agent holds one poll; a newer one displaces it. Where that happens again and again, from two addresses, two
    machines run on one identity: `poll_address` is where the newest poll came from, `displaced_poll_address` where the
    last one that was displaced had come from, and `displaced_polls` how many there were.
    """

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
    poll_address: str | None
    polled_at: datetime | None
    displaced_polls: int
    displaced_poll_address: str | None
    displaced_poll_at: datetime | None


Pattern = Annotated[str, msgspec.Meta(min_length=1, max_length=256, pattern=WITHOUT_NUL)]


class AgentFilter(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Which agents are meant: those that match every field that is given.

    In `name`, `os` (the name or the type of the system) and `version` a `*` stands for anything; case is ignored, but
    not in a whole name.
    """

    name: Pattern | None = None
    group: Text | None = None
    status: AgentStatus | None = None
    os: Pattern | None = None
    version: Pattern | None = None
    labels: Labels = {}
    in_sync: bool | None = None
    """Whether it reports that it runs the current files of its groups; true if they have no files."""
    node: Text | None = None
    """The node that saw it last, while that node is live."""


Networks = Annotated[list[Text], msgspec.Meta(max_length=32)]
"""Source addresses as CIDR, IPv4 or IPv6; none given: any address."""


class AgentChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What an operator changes of an agent; blocking it or narrowing its addresses ends its tokens."""

    labels: Labels | None = None
    allowed_addresses: Networks | None = None
    is_blocked: bool | None = None


class NewKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The key that replaces an agent's; without one, the server makes it."""

    key: Text | None = None


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
    next_key_hash: bytes | None = None


class NewEnrollmentToken(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A token that enrolls agents: into which groups, how often, and for how long."""

    expires_in: Annotated[float, msgspec.Meta(gt=0, le=365 * 86_400)]
    groups: tuple[GroupName, ...] = ()
    uses: Annotated[int, msgspec.Meta(ge=1)] | None = None
    description: Label = ""


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
