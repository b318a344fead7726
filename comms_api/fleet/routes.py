"""The management API's events of the fleet."""

from datetime import datetime
from typing import Annotated

from litestar import get
from litestar.di import NamedDependency
from litestar.params import FromQuery, QueryParameter

from comms_api.agents.dependencies import FilteredAgent
from comms_api.database.pages import Order, Page
from comms_api.fleet.model import FleetEvent, FleetEventFilter, FleetEventKind, FleetTail
from comms_api.fleet.service import FleetEvents
from comms_api.fleet.tail import FleetFollowers
from comms_api.http.authentication import HELD, claims_of
from comms_api.http.pages import LARGE, Limit, Wait
from comms_api.http.request import AnyRequest, at_end, is_head, while_connected
from comms_api.http.roles import READ

POSITION_MAXIMUM = 2**63 - 1

Position = Annotated[
    int | None, QueryParameter(ge=0, le=POSITION_MAXIMUM, description="`next` of the previous page, or a `position`")
]


@get("/fleet/events", opt=READ | LARGE)
async def list_fleet_events(  # noqa: PLR0913 - one parameter per filter
    fleet_events: NamedDependency[FleetEvents],
    filtered_agent: FilteredAgent,
    kind: FromQuery[FleetEventKind | None] = None,
    node: FromQuery[str | None] = None,
    since: FromQuery[datetime | None] = None,
    until: FromQuery[datetime | None] = None,
    order: FromQuery[Order] = "oldest",
    after: Position = None,
    limit: Limit = 100,
) -> Page[FleetEvent]:
    """List the events of agents and nodes, filtered by kind, agent, node and time.

    To continue, repeat the request with the `position` of the last event as `after`: an event that commits late gets a
    later position, so none is skipped. `/fleet/events/tail` waits for the next events.
    """
    event_filter = FleetEventFilter(kind, filtered_agent, node, since, until)
    return await fleet_events.list(event_filter, order, after, limit)


@get("/fleet/events/tail", opt=READ | LARGE | HELD)
async def follow_fleet_events(  # noqa: PLR0913 - one parameter per filter
    request: AnyRequest,
    fleet_followers: NamedDependency[FleetFollowers],
    filtered_agent: FilteredAgent,
    kind: FromQuery[FleetEventKind | None] = None,
    node: FromQuery[str | None] = None,
    after: Position = None,
    limit: Limit = 100,
    wait: Wait = 0,
) -> FleetTail:
    """Return the next events after `next` of the previous answer, and wait for them at most `wait` seconds.

    The first request has no `after`: its answer is empty, and its `next` is now. No event is skipped. An answer may be
    empty.
    """
    at_end(request.scope, fleet_followers.requests.enter(claims_of(request).subject))
    event_filter = FleetEventFilter(kind, filtered_agent, node)
    seconds = 0 if is_head(request.scope) else wait
    answer = await while_connected(request, fleet_followers.read(event_filter, after, limit, seconds))
    return answer or FleetTail([], after or 0)  # without an answer, the client has disconnected


ROUTES = [list_fleet_events, follow_fleet_events]
