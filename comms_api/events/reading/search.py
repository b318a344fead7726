"""Search the contents of batches. A thread does so, in calls of bounded length, with pauses for the event loop."""

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import chain

import msgspec

from comms_api.database.pages import ROW_BYTES
from comms_api.events.contents import decompress_at_once, find_events
from comms_api.events.model import Event, EventBatch
from comms_api.events.reading.model import EventFilter
from comms_api.events.reading.walks import Header, Walk
from comms_api.fairness.quiet import Pauses

DECODED_BYTES_AT_ONCE = 16 * 2**20
"""A call ends after the batch with which it has decompressed this many bytes."""


class Room(msgspec.Struct):
    """The events and bytes that still fit on a page; the first event always fits."""

    events: int
    size: int
    is_empty: bool = True

    def take(self, event: Event) -> bool:
        """Return whether an event fits, and subtract it."""
        size = self.size - ROW_BYTES - len(bytes(event.event))
        if not self.events or (size < 0 and not self.is_empty):
            return False
        self.events, self.size, self.is_empty = self.events - 1, size, False
        return True


class Found(msgspec.Struct):
    """The result of a call: the events, the position up to which it has searched, and its work."""

    walk: Walk
    events: list[Event] = []
    batches: int = 0
    decoded_bytes: int = 0
    is_full: bool = False
    """Whether an event did not fit on the page."""


def search(
    batches: Sequence[tuple[Header, EventBatch | None]],
    event_filter: EventFilter,
    walk: Walk,
    room: Room,
    pauses: Pauses,
) -> Found:
    """Return the matching events that follow the walk's position and fit on the page; None is a deleted batch."""
    found = Found(walk)
    for header, batch in batches:
        pauses()
        body = decompress_at_once(batch.content) if batch else b""
        # Most contents do not contain a rare text, so they are not cut into lines.
        if batch and event_filter.contains in body and not _add(found, header, batch, body, event_filter, room):
            found.is_full = True
            break
        found.walk = walk.after_batch(header)
        found.batches += 1
        found.decoded_bytes += len(body)
        if found.decoded_bytes >= DECODED_BYTES_AT_ONCE:
            break
    return found


def _add(  # noqa: PLR0913 - the state of `search`
    found: Found, header: Header, batch: EventBatch, body: bytes, event_filter: EventFilter, room: Room
) -> bool:
    """Add the matching events of a batch that follow the position; return whether all of them fit."""
    before = found.walk
    matching = (event for event in _matching(batch, body, event_filter) if before.includes(header, event.id))
    # The last events of a batch are the first ones; only as many are kept as fit, and one that does not.
    in_order = reversed(deque(matching, room.events + 1)) if before.is_newest_first else matching
    for event in in_order:
        if not room.take(event):
            return False
        found.events.append(event)
        found.walk = before.after_event(header, event.id)
    return True


def _matching(batch: EventBatch, body: bytes, event_filter: EventFilter) -> Iterator[Event]:
    module, collector = event_filter.module, event_filter.collector
    for event in chain.from_iterable(find_events(batch, body, event_filter.contains)):
        if module in {None, event.module} and collector in {None, event.collector}:
            yield event
