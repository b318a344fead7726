"""The agent API's stateless batches, and the management API's quarantine."""

import msgspec
from litestar import get, post
from litestar.di import NamedDependency

from comms_api.agents.dependencies import FilteredAgent
from comms_api.batches.reading import BatchReader
from comms_api.database.pages import Page
from comms_api.events.model import QuarantinedEvent
from comms_api.events.service import Events
from comms_api.events.stateless import read_stateless
from comms_api.http.authentication import agent_of
from comms_api.http.description.operations import reads_text
from comms_api.http.pages import LARGE, RequestedPage
from comms_api.http.request import AnyRequest
from comms_api.http.roles import READ
from comms_api.protocol import JSON_LINES


class EventServices(msgspec.Struct, frozen=True):
    """The dependencies of the route of batches; one struct, since Litestar starts a task for each of several."""

    batches: BatchReader
    events: Events


@post("/events/stateless", status_code=204, opt=reads_text(JSON_LINES))
async def append_events(request: AnyRequest, event_services: NamedDependency[EventServices]) -> None:
    """Store a batch of events; 204 when they are durable. Invalid lines go to the quarantine.

    With an `Idempotency-Key`, a batch that is sent again within a day is not stored again: 422 for another body, 503
    while the first request with the key is in progress.
    """
    batches = event_services.batches
    reading = batches.bodies.receive(request)
    async with reading as body:
        key = await batches.read_key(request, "stateless", body)
        batch = await batches.read(request, body, read_stateless(body, batches.items_maximum))
        await event_services.events.append(agent_of(request), batch, body, reading.zstd, key)


@get("/events/quarantine", opt=READ | LARGE)
async def list_quarantined_events(
    events: NamedDependency[Events], filtered_agent: FilteredAgent, requested_page: RequestedPage
) -> Page[QuarantinedEvent]:
    """List the lines of stateless batches that could not be stored as events, and why."""
    return await events.quarantine.list(filtered_agent, requested_page)


AGENT_ROUTES = [append_events]
MANAGEMENT_ROUTES = [list_quarantined_events]
