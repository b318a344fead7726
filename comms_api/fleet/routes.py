"""The management API's events of the fleet."""

from datetime import datetime
from typing import Annotated

from litestar import get
from litestar.di import NamedDependency
from litestar.params import FromQuery, QueryParameter

from comms_api.agents.dependencies import FilteredAgent
from comms_api.database.pages import Order, Page
from comms_api.fleet.model import FleetEvent, FleetEventFilter, FleetEventKind
from comms_api.fleet.service import FleetEvents
from comms_api.http.pages import LARGE, Limit
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

    To follow the events, repeat the request with the `position` of the last event as `after`: an event that commits
    late gets a later position, so none is skipped.
    """
    event_filter = FleetEventFilter(kind, filtered_agent, node, since, until)
    return await fleet_events.list(event_filter, order, after, limit)


ROUTES = [list_fleet_events]
