"""The two orders in which readers walk through batches, and the position of a reader in each."""

import base64
import binascii
from collections.abc import Sequence
from typing import Any, Protocol
from uuid import UUID

import msgspec
from sqlalchemy import BigInteger, ColumnElement, Text, cast, func, literal, tuple_

from comms_api.database.pages import PageRequest
from comms_api.database.schema import event_batches
from comms_api.errors import Conflict, Malformed

EVENTS_MAXIMUM = 2**31
"""A batch has fewer events, so the event `id` is in no batch whose id is this much lower."""

DAY_MILLISECONDS = 24 * 60 * 60 * 1000
FIRST = UUID(int=0)

HORIZON: ColumnElement[int] = cast(cast(func.pg_snapshot_xmin(func.pg_current_snapshot()), Text), BigInteger)
"""The oldest open transaction, or the next one: all earlier ones have ended, and the statement sees their commits."""


class Header(msgspec.Struct, frozen=True):
    """A batch without its content."""

    id: UUID
    xact: int
    events: int
    size: int
    """The bytes of the content."""

    is_match: bool
    """Whether the batch may have events that match."""

    place: int
    """Its number among the batches that were examined with it, from 1."""

    @property
    def last_event(self) -> UUID:
        """The id of its last event."""
        return UUID(int=self.id.int + self.events - 1)


class Walk(Protocol):
    """An order of batches and a position in it."""

    @property
    def conditions(self) -> list[ColumnElement[bool]]:
        """The conditions that a batch may have events after the position; an index serves them."""

    @property
    def match(self) -> list[ColumnElement[bool]]:
        """Further conditions that no index serves."""

    @property
    def sorting(self) -> Sequence[ColumnElement[Any]]:
        """The columns of batches to order them by."""

    @property
    def is_newest_first(self) -> bool:
        """Whether the last event of a batch comes first."""

    def includes(self, batch: Header, event: UUID) -> bool:
        """Return whether an event of a batch is after the position."""

    def after_event(self, batch: Header, event: UUID) -> "Walk":
        """Return this walk at the position of an event."""

    def after_batch(self, batch: Header) -> "Walk":
        """Return this walk at the end of a batch, or unchanged if its position is there or later."""

    def cursor(self) -> str:
        """Return the position as clients get it."""


class ById(msgspec.Struct, frozen=True):
    """The order of the ids, which is the order of the times at which the events arrived."""

    requested: PageRequest

    @property
    def is_newest_first(self) -> bool:
        """Whether the newest event comes first."""
        return self.requested.is_newest_first

    @property
    def conditions(self) -> list[ColumnElement[bool]]:
        """The conditions that a batch may have events on the page."""
        after = self.requested.after
        if after is not None and not self.is_newest_first:
            after = lowest_batch(after)
        return msgspec.structs.replace(self.requested, after=after).conditions(event_batches.c.id)

    @property
    def match(self) -> list[ColumnElement[bool]]:
        """No further conditions."""
        return []

    @property
    def sorting(self) -> Sequence[ColumnElement[Any]]:
        """The order of the ids."""
        return [self.requested.sorting(event_batches.c.id)]

    def includes(self, batch: Header, event: UUID) -> bool:  # noqa: ARG002 - the position is the id of an event
        """Return whether an event follows the position."""
        after = self.requested.after
        return after is None or self.requested.is_before(after, event)

    def after_event(self, batch: Header, event: UUID) -> "ById":  # noqa: ARG002 - as above
        """Return this walk at the position of an event."""
        return ById(msgspec.structs.replace(self.requested, after=event))

    def after_batch(self, batch: Header) -> "ById":
        """Return this walk at the end of a batch, unless its position is there or later."""
        end = batch.id if self.is_newest_first else batch.last_event
        return self.after_event(batch, end) if self.includes(batch, end) else self

    def cursor(self) -> str:
        """Return the id of the last event before the position."""
        return str(self.requested.after)


class ByCommit(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The order in which followers get batches: by transaction, once every earlier transaction has ended.

    Batches that commit later always follow the position, so a follower misses none.
    """

    cluster: str
    """The system identifier of the PostgreSQL cluster that numbers the transactions."""

    xact: int = 0
    event: UUID = FIRST
    since: UUID = FIRST
    """Batches with lower ids are left out."""

    @property
    def is_newest_first(self) -> bool:
        """Return False: the position is after the events that have been read."""
        return False

    @property
    def conditions(self) -> list[ColumnElement[bool]]:
        """The conditions that every earlier transaction has ended, and that a batch may follow the position."""
        columns = event_batches.c
        position = tuple_(literal(self.xact, BigInteger), literal(lowest_batch(self.event), columns.id.type))
        conditions = [columns.xact < HORIZON, tuple_(columns.xact, columns.id) > position]
        if self.since != FIRST:
            # Partitions are days. A condition on the exact time could skip any number of rows before the first match.
            milliseconds = self.since.int >> 80
            conditions.append(columns.id >= UUID(int=milliseconds - milliseconds % DAY_MILLISECONDS << 80))
        return conditions

    @property
    def match(self) -> list[ColumnElement[bool]]:
        """The condition on the exact time."""
        return [] if self.since == FIRST else [event_batches.c.id >= self.since]

    @property
    def sorting(self) -> Sequence[ColumnElement[Any]]:
        """The order of the transactions, and of the ids in each."""
        return [event_batches.c.xact, event_batches.c.id]

    def includes(self, batch: Header, event: UUID) -> bool:
        """Return whether an event follows the position."""
        return batch.xact > self.xact or event > self.event

    def after_event(self, batch: Header, event: UUID) -> "ByCommit":
        """Return this walk at the position of an event."""
        return ByCommit(self.cluster, batch.xact, event, self.since)

    def after_batch(self, batch: Header) -> "ByCommit":
        """Return this walk at the end of a batch, unless its position is there or later."""
        return self.after_event(batch, batch.last_event) if self.includes(batch, batch.last_event) else self

    def cursor(self) -> str:
        """Return all fields in a form that is opaque to clients."""
        return base64.urlsafe_b64encode(msgspec.json.encode(self)).decode().rstrip("=")


def decode_cursor(cursor: str, cluster: str, next_xact: int) -> ByCommit:
    """Return the position of a cursor.

    Raises `Malformed`, and `Conflict` for a cursor of another cluster, or of transactions that do not exist yet.
    """
    try:
        content = base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True)
        walk = msgspec.json.decode(content, type=ByCommit)
    except (binascii.Error, ValueError) as error:
        raise Malformed("after: not the `next` of an earlier answer") from error
    if walk.cluster != cluster or not 0 <= walk.xact <= next_xact:
        raise Conflict(
            "after: the database has been replaced or restored since this cursor; begin again with `since`, the time of"
            " the last event that you have, and ignore the events that you have already."
        )
    return walk


def lowest_batch(event: UUID) -> UUID:
    """Return an id below those of all batches that may contain an event."""
    return UUID(int=max(0, event.int - EVENTS_MAXIMUM))
