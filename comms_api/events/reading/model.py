"""The filters of readers of events, and the answers to followers."""

from datetime import datetime
from uuid import UUID

import msgspec

from comms_api.events.model import Event


class EventFilter(msgspec.Struct, frozen=True):
    """Selects events; an empty field matches every event."""

    agent_id: UUID | None = None
    group: str | None = None
    """The agent is a member of this group now."""

    module: str | None = None
    collector: str | None = None
    contains: bytes = b""
    """A part of the event's bytes."""


class HeldBack(msgspec.Struct, frozen=True):
    """An open transaction of PostgreSQL; followers get what committed after its beginning only when it ends."""

    seconds: float
    by: str


class Tail(msgspec.Struct, frozen=True):
    """The next events for a follower; `next` is the `after` of its next request."""

    items: list[Event]
    next: str
    held_back: HeldBack | None


class EventCounts(msgspec.Struct, frozen=True):
    """The number of events in intervals of equal length; the last one ends at `until`.

    With `is_cut`, only the newest batches were counted: the first intervals show too few events.
    """

    since: datetime
    until: datetime
    counts: list[int]
    is_cut: bool

    @property
    def total(self) -> int:
        """The number of all counted events."""
        return sum(self.counts)
