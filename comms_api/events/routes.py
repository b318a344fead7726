"""The agent API's batches, and the management API's view of what they left."""

import re
from uuid import UUID

import msgspec
from litestar import get, post
from litestar.di import NamedDependency
from litestar.params import FromQuery

from comms_api.agents.dependencies import FilteredAgent
from comms_api.errors import Forbidden, Malformed
from comms_api.events.cursors import decode_cursor
from comms_api.events.framing import read_owner
from comms_api.events.model import Event, QuarantinedEvent, State
from comms_api.events.service import Events, States
from comms_api.events.stateful import read_stateful
from comms_api.events.stateless import read_stateless
from comms_api.http.answers import Answers
from comms_api.http.authentication import agent_of
from comms_api.http.bodies import Bodies
from comms_api.http.budgets import CpuBudget
from comms_api.http.pages import LARGE, After, Limit, Page
from comms_api.http.request import AnyRequest, find_header, meter_of
from comms_api.http.roles import READ
from comms_api.protocol import BATCH_SEQUENCE, BATCH_SEQUENCE_MAXIMUM, ItemResults
from comms_api.slices import Slices

_DIGITS = re.compile("[0-9]{1,19}")
_SEQUENCE_HEADER = BATCH_SEQUENCE.lower().encode()


class Ingest(msgspec.Struct, frozen=True):
    """What the two batch routes work with; one dependency, since Litestar starts a task for each of several."""

    bodies: Bodies
    answers: Answers
    cpu: CpuBudget
    slices: Slices
    events: Events
    states: States
    batch_items_maximum: int


@post("/events/stateless", status_code=204)
async def append_events(request: AnyRequest, ingest: NamedDependency[Ingest]) -> None:
    """Store a batch of events; 204 when they are durable. Lines that are no events go to the quarantine."""
    agent_id = agent_of(request)
    async with ingest.bodies.receive(request) as body:
        async with ingest.cpu.turn(str(agent_id), meter_of(request.scope).take_seconds):
            _check_owner(body, agent_id)
            await ingest.bodies.hold_lines(request, body)
            batch = await ingest.slices.run_metered(read_stateless(body, ingest.batch_items_maximum))
        await ingest.events.append(agent_id, batch)


@post("/events/stateful", status_code=200)
async def change_states(request: AnyRequest, ingest: NamedDependency[Ingest]) -> ItemResults:
    """Create, update and delete states; one result per item, in order, after the commit.

    A batch may be numbered by the header `Batch-Sequence`: 409 when a batch with a higher number has been applied.
    """
    agent_id, sequence = agent_of(request), _read_sequence(request)
    async with ingest.bodies.receive(request) as body:
        await ingest.answers.hold(request.scope, len(body))  # the results are about as large
        async with ingest.cpu.turn(str(agent_id), meter_of(request.scope).take_seconds):
            _check_owner(body, agent_id)
            await ingest.bodies.hold_lines(request, body)
            steps = read_stateful(str(agent_id), sequence, body, ingest.batch_items_maximum)
            batch = await ingest.slices.run_metered(steps)
        return ItemResults(await ingest.states.change(agent_id, batch))


def _read_sequence(request: AnyRequest) -> int | None:
    text = find_header(request.scope, _SEQUENCE_HEADER)
    if text is None:
        return None
    if not _DIGITS.fullmatch(text) or not 0 < int(text) <= BATCH_SEQUENCE_MAXIMUM:
        raise Malformed(f"{BATCH_SEQUENCE}: expected a number from 1 to {BATCH_SEQUENCE_MAXIMUM}")
    return int(text)


def _check_owner(body: bytes, agent_id: UUID) -> None:
    if read_owner(body).lower() != str(agent_id):
        raise Forbidden("line 1: agent.id is not the agent of the token; nothing was stored")


@get("/events", opt=READ | LARGE)
async def list_events(
    events: NamedDependency[Events],
    filtered_agent: FilteredAgent,
    module: FromQuery[str | None] = None,
    after: FromQuery[UUID | None] = None,
    limit: Limit = 100,
) -> Page[Event]:
    """List events, oldest first, all or those of an agent or a module."""
    return await events.list(filtered_agent, module, after, limit)


@get("/events/quarantine", opt=READ | LARGE)
async def list_quarantined_events(
    events: NamedDependency[Events],
    filtered_agent: FilteredAgent,
    after: FromQuery[UUID | None] = None,
    limit: Limit = 100,
) -> Page[QuarantinedEvent]:
    """List the lines of stateless batches that could not be stored as events, and why, oldest first."""
    return await events.quarantine.list(filtered_agent, after, limit)


@get("/states", opt=READ | LARGE)
async def list_states(
    states: NamedDependency[States],
    filtered_agent: FilteredAgent,
    module: FromQuery[str | None] = None,
    after: After = None,
    limit: Limit = 100,
) -> Page[State]:
    """List states by agent, module, collector and id, all or those of an agent or a module."""
    return await states.list(filtered_agent, module, decode_cursor(after), limit)


AGENT_ROUTES = [append_events, change_states]
MANAGEMENT_ROUTES = [list_events, list_quarantined_events, list_states]
