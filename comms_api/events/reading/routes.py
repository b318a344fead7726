"""The management API's events: search, export, follow."""

from typing import Annotated, Any
from uuid import UUID

from litestar import Response, get
from litestar.di import NamedDependency, Provide
from litestar.openapi import ResponseSpec
from litestar.params import FromPath, FromQuery, QueryParameter
from litestar.response import Stream

from comms_api.agents.dependencies import FilteredAgent
from comms_api.database.pages import Page
from comms_api.events.model import Event
from comms_api.events.reading.model import EventFilter, Tail
from comms_api.events.reading.service import EventReader
from comms_api.events.reading.tail import EventTail
from comms_api.http.authentication import HELD, claims_of
from comms_api.http.pages import EXPORT, LARGE, Limit, RequestedPage, Since, Wait
from comms_api.http.request import AnyRequest, at_end, is_head, while_connected
from comms_api.http.roles import READ
from comms_api.protocol import JSON_LINES

Contains = Annotated[
    str | None, QueryParameter(max_length=1024, description="a part of the event as it was sent, in the same case")
]
Cursor = Annotated[str | None, QueryParameter(max_length=1024, description="`next` of the previous answer")]


async def find_event_filter(
    filtered_agent: FilteredAgent,
    group: FromQuery[str | None] = None,
    module: FromQuery[str | None] = None,
    collector: FromQuery[str | None] = None,
    contains: Contains = None,
) -> EventFilter:
    """Return the filters of events in a query."""
    return EventFilter(filtered_agent, group, module, collector, (contains or "").encode())


EVENT_FILTERS = {"event_filter": Provide(find_event_filter)}
"""The name under which routes receive this dependency."""


_PAGE = ResponseSpec(Page[Event], generate_examples=False, description="A page, or all events as lines of JSON")


@get("/events", opt=READ | LARGE, responses={200: _PAGE})
async def list_events(
    request: AnyRequest,
    event_reader: NamedDependency[EventReader],
    event_filter: NamedDependency[EventFilter],
    requested_page: RequestedPage,
) -> Response[Any]:
    """List events that match every given filter; `group` selects agents by their groups of today.

    A page may be empty although more follow: ask again with `next` until it is null. With `Accept:
    application/x-ndjson`, the answer is all matching events as lines of JSON; `limit` bounds their number if it is
    given.
    """
    user = claims_of(request).subject
    if request.accept.best_match(["application/json", JSON_LINES]) != JSON_LINES:
        return Response(await event_reader.list(user, event_filter, requested_page))
    lines = requested_page.limit if "limit" in request.query_params else None
    return Stream(event_reader.export(user, event_filter, requested_page, lines), media_type=JSON_LINES)


@get("/events/tail", opt=READ | EXPORT | HELD)
async def follow_events(  # noqa: PLR0913 - one parameter per filter
    request: AnyRequest,
    event_tail: NamedDependency[EventTail],
    event_filter: NamedDependency[EventFilter],
    after: Cursor = None,
    since: Since = None,
    limit: Limit = 100,
    wait: Wait = 0,
) -> Tail:
    """Return the next events after `next` of the previous answer, and wait for them at most `wait` seconds.

    The first request has no `after`: it begins with the events since `since`, or with those from now on. No
    acknowledged event is skipped, however late it is committed, so the order is not exactly that of the ids.
    An answer may be empty. `held_back` names an open transaction of PostgreSQL that all later events wait for.
    """
    user = claims_of(request).subject
    at_end(request.scope, event_tail.followers.enter(user))
    seconds = 0 if is_head(request.scope) else wait
    answer = await while_connected(request, event_tail.read(user, event_filter, after, since, limit, seconds))
    return answer or Tail([], after or "", None)  # without an answer, the client has disconnected


@get("/events/{event_id:uuid}", opt=READ | LARGE)
async def get_event(request: AnyRequest, event_id: FromPath[UUID], event_reader: NamedDependency[EventReader]) -> Event:
    """Show one event."""
    return await event_reader.get(claims_of(request).subject, event_id)


ROUTES = [list_events, follow_events, get_event]
