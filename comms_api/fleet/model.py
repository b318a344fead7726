"""Events of the fleet as operators see them."""

from datetime import datetime
from typing import Literal
from uuid import UUID

import msgspec

AgentEventKind = Literal[
    "enrolled",
    "removed",
    "active",
    "disconnected",
    "blocked",
    "unblocked",
    "moved",
    "described",
    "hidden",
    "returned",
    "cloned",
]
NodeEventKind = Literal["node_joined", "node_draining", "node_resumed", "node_left", "node_lost", "node_returned"]
FleetEventKind = Literal[AgentEventKind, NodeEventKind]


class FleetEvent(msgspec.Struct, frozen=True):
    """Something that happened to an agent or a node.

    `position` orders the events: an event that commits late gets a later position, so a reader that continues after the
    last position it has seen misses nothing. `id` identifies the event everywhere.
    """

    position: int
    id: UUID
    at: datetime
    kind: str
    agent_id: UUID | None
    agent_name: str | None
    node: str | None
    details: msgspec.Raw


class FleetTail(msgspec.Struct, frozen=True):
    """The next events of a follower; `next` is the `after` of its next request."""

    items: list[FleetEvent]
    next: int


class OutboxEvent(msgspec.Struct, frozen=True):
    """A committed event that has no position yet."""

    id: UUID
    at: datetime
    kind: str
    agent_id: UUID | None
    agent_name: str | None
    node: str | None
    details: msgspec.Raw


class FleetEventFilter(msgspec.Struct, frozen=True):
    """Selects events; a field that is None matches every event."""

    kind: FleetEventKind | None = None
    agent_id: UUID | None = None
    node: str | None = None
    since: datetime | None = None
    until: datetime | None = None
