"""Search events, and show one event."""

from datetime import UTC, datetime, timedelta
from typing import Literal
from uuid import UUID

import msgspec
from litestar import Response, get
from litestar.di import NamedDependency
from litestar.params import FromPath

from comms_api.agents.service import Agents
from comms_api.console.live import live
from comms_api.console.queries import ROWS, Moment, Words, read_query
from comms_api.console.rendering import is_partial, render
from comms_api.database.pages import Order, PageRequest
from comms_api.errors import Invalid
from comms_api.events.reading.model import EventFilter
from comms_api.events.reading.service import EventReader
from comms_api.http.authentication import claims_of
from comms_api.http.pages import LARGE
from comms_api.http.request import AnyRequest
from comms_api.http.roles import READ

INTERVALS = 60
"""The number of bars of the histogram."""

Period = Literal["15m", "1h", "6h", "1d", "7d", "30d", "any"]
PERIODS: dict[Period, timedelta] = {
    "15m": timedelta(minutes=15),
    "1h": timedelta(hours=1),
    "6h": timedelta(hours=6),
    "1d": timedelta(days=1),
    "7d": timedelta(days=7),
    "30d": timedelta(days=30),
}
COUNTED_PERIOD = PERIODS["30d"]
"""The period that the histogram shows if the search has no beginning."""


class EventList(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The state of the list: its filters, as in the API, and the last event of the previous page.

    `last` is a period that ends now; `since` and `until` replace it. `follow` loads the newest events again and again.
    """

    agent: Words | None = None
    group: Words | None = None
    module: Words | None = None
    collector: Words | None = None
    contains: Words | None = None
    last: Period = "1d"
    since: Moment | None = None
    until: Moment | None = None
    order: Order = "newest"
    follow: bool = False
    after: UUID | None = None

    @property
    def can_follow(self) -> bool:
        """Whether new events appear on this page."""
        return self.order == "newest" and self.until is None and self.after is None

    @property
    def beginning(self) -> datetime | None:
        """The beginning of the searched time; None if it has none."""
        if self.since is not None or self.until is not None or self.last == "any":
            return self.since
        return datetime.now(UTC) - PERIODS[self.last]

    @property
    def counted(self) -> tuple[datetime, datetime]:
        """The time that the histogram shows."""
        until = self.until or datetime.now(UTC)
        since = self.beginning or max(until - COUNTED_PERIOD, datetime.fromtimestamp(0, UTC))
        if since >= until:
            raise Invalid("since: must be before `until`")
        return since, until


@get("/console/events", opt=READ | LARGE)
@live
async def list_events(
    request: AnyRequest, agents: NamedDependency[Agents], event_reader: NamedDependency[EventReader]
) -> Response[bytes]:
    """List the events that match the filters in the URL; the first page counts them in intervals of the time.

    A search for a text may take a second, so the page appears first, and then loads the results; it counts nothing.
    """
    state = read_query(request, EventList)
    since, until = state.counted
    agent_id = await agents.resolve(state.agent) if state.agent else None
    contains = (state.contains or "").encode(errors="surrogatepass")
    event_filter = EventFilter(agent_id, state.group, state.module, state.collector, contains)
    requested = PageRequest(ROWS, state.after, state.order, state.beginning, state.until)
    is_searched = not contains or is_partial(request)
    page = await event_reader.list(claims_of(request).subject, event_filter, requested) if is_searched else None
    # The number of events with a text is known only after the search of all of them, which has many pages.
    is_counted = state.after is None and not contains and not is_partial(request)
    counts = await event_reader.count(since, until, INTERVALS, event_filter) if is_counted else None
    return render(request, "events.html", state=state, page=page, counts=counts)


@get("/console/events/{event_id:uuid}", opt=READ | LARGE)
async def show_event(
    request: AnyRequest, event_id: FromPath[UUID], event_reader: NamedDependency[EventReader]
) -> Response[bytes]:
    """Show one event."""
    event = await event_reader.get(claims_of(request).subject, event_id)
    return render(request, "event.html", event=event)


ROUTES = [list_events, show_event]
