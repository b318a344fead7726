"""Search and export events; each request does a bounded amount of work."""

import time
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from uuid import UUID

import msgspec

from comms_api.database.connection import Engine
from comms_api.database.pages import PAGE_BYTES_MAXIMUM, Page, PageRequest, drain
from comms_api.database.uuid7 import DatabaseClock, uuid7_floor
from comms_api.errors import NotFound
from comms_api.events.model import Event
from comms_api.events.reading import store
from comms_api.events.reading.model import EventCounts, EventFilter
from comms_api.events.reading.search import Found, Room, search
from comms_api.events.reading.walks import ById, Header, Walk
from comms_api.fairness.budgets import ByteBudget
from comms_api.fairness.executors import BoundedExecutor
from comms_api.fairness.quiet import Pauses

EXAMINED_AT_FIRST = 64
EXAMINED_AT_ONCE = 4_096
EXAMINED_MAXIMUM = 20_000
"""The maximum number of batches that a page examines; it searches only the batches that match its filter."""

DECODED_BYTES_MAXIMUM = 512 * 2**20
"""A page ends after the call with which it has decompressed this many bytes."""

SECONDS_MAXIMUM = 1.0
"""A page ends after the call that this time ends in."""

CONTENT_BYTES_AT_ONCE = 2**20
"""The contents that a request fetches at once; a larger one is fetched alone."""

CONTENT_BYTES_MAXIMUM = 64 * 2**20
SHARES = 8
"""The contents in memory, for all requests; each user has an eighth."""

THREADS = 1
CALLS_MAXIMUM = 64

COUNTED_MAXIMUM = 50_000
"""A count of events reads at most this many batches."""

EXPORT_PAGE = 1_000
EXPORTED_AT_ONCE = 64
EXPORT_MARGIN_SECONDS = 1.0
"""An export ends with the events that arrive until this long after its beginning; nodes' clocks differ by less."""

EVERY_EVENT = EventFilter()
LAST_ID = 2**128 - 1

_LINES = msgspec.json.Encoder()


class Reading(msgspec.Struct):
    """The state of reading one page: its events, the position after them, and the work so far."""

    user: str
    event_filter: EventFilter
    walk: Walk
    room: Room
    ends_at: float
    events: list[Event] = []
    examined: int = 0
    decoded_bytes: int = 0
    is_end: bool = False
    """Whether nothing follows the position now."""

    is_full: bool = False

    @property
    def is_finished(self) -> bool:
        """Whether the page is complete, or as much work has been done as one page may cost."""
        is_costly = self.examined >= EXAMINED_MAXIMUM or self.decoded_bytes >= DECODED_BYTES_MAXIMUM
        return self.is_end or self.is_full or is_costly or time.monotonic() >= self.ends_at


class EventReader:
    """Reads stored events; searches run on a thread."""

    def __init__(self, engine: Engine, clock: DatabaseClock, wait_seconds: float) -> None:
        self._engine = engine
        self._clock = clock
        self._contents = ByteBudget(CONTENT_BYTES_MAXIMUM, CONTENT_BYTES_MAXIMUM // SHARES, wait_seconds)
        self._searching = BoundedExecutor("searches of events", THREADS, CALLS_MAXIMUM)

    async def list(self, user: str, event_filter: EventFilter, requested: PageRequest) -> Page[Event]:
        """Return one page; it may be empty although more pages follow."""
        reading = await self.read(user, event_filter, ById(requested), requested.limit)
        return Page(reading.events, None if reading.is_end else reading.walk.cursor())

    async def count(
        self, since: datetime, until: datetime, intervals: int, event_filter: EventFilter = EVERY_EVENT
    ) -> EventCounts:
        """Return the number of events in intervals of equal length; the newest `COUNTED_MAXIMUM` batches count.

        A filter by stream counts all events of the batches that have the stream. The text of a filter is ignored.
        """
        step = (until - since) / intervals
        bounds = [uuid7_floor(since + number * step) for number in range(intervals + 1)]
        async with self._engine.connect() as connection:
            found = await store.count_events(connection, bounds, event_filter, COUNTED_MAXIMUM)
        events = {bucket: number for bucket, number, _ in found}
        counts = [events.get(bucket, 0) for bucket in range(1, intervals + 1)]
        return EventCounts(since, until, counts, is_cut=sum(batches for *_, batches in found) == COUNTED_MAXIMUM)

    async def get(self, user: str, event_id: UUID) -> Event:
        """Return an event; raises `NotFound`."""
        # Newest first: then its batch is the first one, however many batches have the events before it.
        walk = ById(PageRequest(after=UUID(int=min(event_id.int + 1, LAST_ID)), order="newest"))
        for event in (await self.read(user, EVERY_EVENT, walk, 1)).events:
            if event.id == event_id:
                return event
        raise NotFound(f"There is no event {event_id}.")

    async def export(
        self, user: str, event_filter: EventFilter, requested: PageRequest, lines: int | None
    ) -> AsyncIterator[bytes]:
        """Yield at most `lines` events as lines of JSON; only one page is in memory."""
        if requested.until is None:
            until = datetime.fromtimestamp(self._clock.now() + EXPORT_MARGIN_SECONDS, UTC)
            requested = msgspec.structs.replace(requested, until=until)
        while lines is None or lines > 0:
            limit = EXPORT_PAGE if lines is None else min(lines, EXPORT_PAGE)
            page = await self.list(user, event_filter, msgspec.structs.replace(requested, limit=limit))
            lines = lines and lines - len(page.items)
            events = drain(page)
            while some := list(islice(events, EXPORTED_AT_ONCE)):
                yield _LINES.encode_lines(some)
            if page.next is None:
                return
            requested = msgspec.structs.replace(requested, after=UUID(page.next))

    async def read(self, user: str, event_filter: EventFilter, walk: Walk, limit: int) -> Reading:
        """Return the next events of a walk: at most `limit`, about `PAGE_BYTES_MAXIMUM`, and none if they are far."""
        room, ends_at = Room(limit, PAGE_BYTES_MAXIMUM), time.monotonic() + SECONDS_MAXIMUM
        reading = Reading(user, event_filter, walk, room, ends_at)
        count = EXAMINED_AT_FIRST
        while not reading.is_finished:
            async with self._engine.connect() as connection:
                headers = await store.list_headers(connection, reading.walk, event_filter, count)
            await self._search(reading, [header for header in headers if header.is_match])
            if reading.is_finished:
                break
            if headers:
                reading.walk = reading.walk.after_batch(headers[-1])
            reading.is_end = not headers or headers[-1].place < count
            reading.examined += count
            count = min(2 * count, EXAMINED_AT_ONCE)
        return reading

    async def _search(self, reading: Reading, headers: Sequence[Header]) -> None:
        """Search batches until the page is finished."""
        start = 0
        while start < len(headers) and not reading.is_finished:
            found = await self._search_some(reading, _fetched_at_once(headers, start))
            reading.events += found.events
            reading.walk = found.walk
            reading.decoded_bytes += found.decoded_bytes
            reading.is_full = found.is_full or not reading.room.events
            start += found.batches

    async def _search_some(self, reading: Reading, headers: Sequence[Header]) -> Found:
        """Fetch contents and search them on the thread; the user is charged for both."""
        size = sum(header.size for header in headers)
        await self._contents.acquire(reading.user, size)
        try:
            async with self._engine.connect() as connection:
                batches = await store.list_batches(connection, [header.id for header in headers])
            pairs = [(header, batches.get(header.id)) for header in headers]
            call = partial(search, pairs, reading.event_filter, reading.walk, reading.room, Pauses())
            return await self._searching.run(reading.user, call)
        finally:
            self._contents.release(reading.user, size)


def _fetched_at_once(headers: Sequence[Header], start: int) -> Sequence[Header]:
    """Return the next batches whose contents are fetched together: at least one."""
    end, size = start, 0
    while end < len(headers) and (end == start or size + headers[end].size <= CONTENT_BYTES_AT_ONCE):
        size += headers[end].size
        end += 1
    return headers[start:end]
