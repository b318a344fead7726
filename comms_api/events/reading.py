"""Read the events of stored batches, in pages of bounded size and work."""

from uuid import UUID

from comms_api.database.connection import Engine
from comms_api.database.pages import PAGE_BYTES_MAXIMUM, ROW_BYTES, Page
from comms_api.events import store
from comms_api.events.contents import decompress, find_events
from comms_api.events.model import Event, EventBatch
from comms_api.fairness.slices import Slices, Steps

READ_BYTES_MAXIMUM = 16 * 2**20
"""A page ends after the batch with which it has decompressed this many bytes."""


class EventPage:
    """A page of events after `after`, of one module or of all, that batches are added to."""

    def __init__(self, module: str | None, after: UUID | None, limit: int) -> None:
        self._module = module
        self._after = after
        self._limit = limit
        self._items: list[Event] = []
        self._room_bytes = PAGE_BYTES_MAXIMUM
        self._unread_bytes = READ_BYTES_MAXIMUM
        self._unread_batches = store.BATCHES_READ_MAXIMUM
        self._next: str | None = None

    def add(self, batch: EventBatch) -> Steps[bool]:
        """Add the events of the next batch; return whether the page has room for more."""
        body = yield from decompress(batch.content)
        for events in find_events(batch, body):
            for event in events:
                if not self._is_shown(event):
                    continue
                self._room_bytes -= ROW_BYTES + len(bytes(event.event))
                if len(self._items) == self._limit or (self._items and self._room_bytes < 0):
                    self._next = str(self._items[-1].id)
                    return False
                self._items.append(event)
            yield None
        self._unread_bytes -= len(body)
        self._unread_batches -= 1
        if self._unread_bytes > 0 and self._unread_batches:
            return True
        self._next = str(UUID(int=batch.id.int + batch.events - 1))
        return False

    def _is_shown(self, event: Event) -> bool:
        return (self._after is None or event.id > self._after) and self._module in (None, event.module)

    def finish(self) -> Page[Event]:
        """Return the page."""
        return Page(self._items, self._next)


async def list_events(  # noqa: PLR0913 - the filters of the route
    engine: Engine, slices: Slices, agent_id: UUID | None, module: str | None, after: UUID | None, limit: int
) -> Page[Event]:
    """Return one page, oldest first; it may be empty although more pages follow."""
    page = EventPage(module, after, limit)
    async with engine.connect() as connection, connection.transaction():
        async for batch in store.list_batches(connection, agent_id, module, after):
            if not await slices.run_metered(page.add(batch)):
                break
    return page.finish()
