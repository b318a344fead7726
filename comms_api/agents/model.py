"""An agent as operators see it."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

import msgspec

from comms_api.protocol import GroupName, Label, Labels, Text
from comms_api.text.printable import WITHOUT_NUL

AgentStatus = Literal["active", "disconnected", "never_connected"]


class Agent(msgspec.Struct, frozen=True):
    """One enrolled agent; its key is never shown. Its groups are in merge order: the last one wins.

    An agent holds one poll; a newer poll displaces it. If this keeps happening from two addresses, two machines use one
    identity. `poll_address` is the source of the newest poll, `displaced_poll_address` the source of the last displaced
    one, and `displaced_polls` their number.
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
    hidden_at: datetime | None
    cloned_at: datetime | None


class AgentCounts(msgspec.Struct, frozen=True):
    """The number of visible agents by status, and of the most frequent versions and groups, the largest first."""

    statuses: dict[str, int]
    versions: list[tuple[str, int]]
    groups: list[tuple[str, int]]
    nodes: dict[str, int]
    """The active agents by the node that saw them last."""

    clones: int
    """The agents that were proved to run twice within a day."""

    @property
    def total(self) -> int:
        """The number of all visible agents."""
        return sum(self.statuses.values())


Pattern = Annotated[str, msgspec.Meta(min_length=1, max_length=256, pattern=WITHOUT_NUL)]


class AgentFilter(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Selects the agents that match every field that is set.

    In `name`, `os` (the name or the type of the system) and `version`, `*` matches any text. Case is ignored, except in
    a `name` without `*`.
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


class Visibility(msgspec.Struct, frozen=True):
    """Selects the hidden agents or the others; with `clones`, only agents that clones may use.

    `proved` selects agents whose processes alternated within the last day. `suspected` also selects agents whose polls
    displaced one another from two addresses.
    """

    is_hidden: bool = False
    clones: Literal["proved", "suspected"] | None = None


Networks = Annotated[list[Text], msgspec.Meta(max_length=32)]
"""Source addresses as CIDR, IPv4 or IPv6; an empty list allows any address."""


class AgentChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """An operator's change of an agent; a block or other addresses revoke its tokens."""

    labels: Labels | None = None
    allowed_addresses: Networks | None = None
    is_blocked: bool | None = None


class NewKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The new key of an agent; without one, the server generates it."""

    key: Text | None = None


class AgentKey(msgspec.Struct, frozen=True):
    """An agent's new key; it is shown only once."""

    id: UUID
    key: str


class Admission(msgspec.Struct, frozen=True):
    """The data that decide whether an agent may log in."""

    id: UUID
    key_hash: bytes
    is_blocked: bool
    allowed_addresses: list[str]
    is_external: bool
    next_key_hash: bytes | None = None
    is_hidden: bool = False
    younger_instance: str | None = None
    """The nonce of its younger clone, while the agent is active."""


class NewEnrollmentToken(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request for an enrollment token: its lifetime in seconds, its groups, and its number of uses."""

    expires_in: Annotated[float, msgspec.Meta(gt=0, le=365 * 86_400)]
    groups: tuple[GroupName, ...] = ()
    uses: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)] | None = None
    description: Label = ""


class MadeEnrollmentToken(msgspec.Struct, frozen=True):
    """A new enrollment token; it is shown only once."""

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
