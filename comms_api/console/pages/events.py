"""Search events, and show one event."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

import msgspec
from litestar import Response, get
from litestar.di import NamedDependency
from litestar.params import FromPath

from comms_api.agents.service import Agents
from comms_api.console.queries import ROWS, Words, read_query
from comms_api.console.rendering import render
from comms_api.database.pages import Order, PageRequest
from comms_api.events.reading.model import EventFilter
from comms_api.events.reading.service import EventReader
from comms_api.http.authentication import claims_of
from comms_api.http.pages import LARGE
from comms_api.http.request import AnyRequest
from comms_api.http.roles import READ

Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class EventList(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The state of the list: its filters, as in the API, and the last event of the previous page."""

    agent: Words | None = None
    group: Words | None = None
    module: Words | None = None
    collector: Words | None = None
    contains: Words | None = None
    since: Moment | None = None
    until: Moment | None = None
    order: Order = "newest"
    after: UUID | None = None


@get("/console/events", opt=READ | LARGE)
async def list_events(
    request: AnyRequest, agents: NamedDependency[Agents], event_reader: NamedDependency[EventReader]
) -> Response[bytes]:
    """List the events that match the filters in the URL."""
    state = read_query(request, EventList)
    agent_id = await agents.resolve(state.agent) if state.agent else None
    contains = (state.contains or "").encode(errors="surrogatepass")
    event_filter = EventFilter(agent_id, state.group, state.module, state.collector, contains)
    requested = PageRequest(ROWS, state.after, state.order, state.since, state.until)
    page = await event_reader.list(claims_of(request).subject, event_filter, requested)
    return render(request, "events.html", state=state, page=page)


@get("/console/events/{event_id:uuid}", opt=READ | LARGE)
async def show_event(
    request: AnyRequest, event_id: FromPath[UUID], event_reader: NamedDependency[EventReader]
) -> Response[bytes]:
    """Show one event."""
    event = await event_reader.get(claims_of(request).subject, event_id)
    return render(request, "event.html", event=event)


ROUTES = [list_events, show_event]
