"""The agent API's stateful batches, and the management API's view of states."""

import re
from typing import Any

import msgspec
from litestar import get, post
from litestar.di import NamedDependency
from litestar.params import FromQuery

from comms_api.agents.dependencies import FilteredAgent
from comms_api.batches.reading import BatchReader
from comms_api.database.pages import Page
from comms_api.errors import Malformed
from comms_api.http.answers import Answers
from comms_api.http.authentication import agent_of
from comms_api.http.description.operations import reads_text
from comms_api.http.pages import LARGE, After, Limit
from comms_api.http.request import AnyRequest, find_header
from comms_api.http.roles import READ
from comms_api.protocol import BATCH_SEQUENCE, BATCH_SEQUENCE_MAXIMUM, JSON_LINES, ItemResults
from comms_api.states.cursors import decode_cursor
from comms_api.states.model import State, StateFilter
from comms_api.states.service import States
from comms_api.states.stateful import read_stateful

_DIGITS = re.compile("[0-9]{1,19}")
_SEQUENCE_HEADER = BATCH_SEQUENCE.lower().encode()


class StateServices(msgspec.Struct, frozen=True):
    """The dependencies of the route of batches; one struct, since Litestar starts a task for each of several."""

    batches: BatchReader
    answers: Answers
    states: States


@post("/events/stateful", status_code=200, opt=reads_text(JSON_LINES))
async def change_states(request: AnyRequest, state_services: NamedDependency[StateServices]) -> ItemResults:
    """Create, update and delete states; one result per item, in order, after the commit.

    A batch may be numbered by the header `Batch-Sequence`: 409 when a batch with a higher number has been applied.
    With an `Idempotency-Key`, a batch that is sent again within a day is not applied again, and gets its first results:
    422 for another body, 503 while the first request with the key is in progress.
    """
    agent_id, sequence = agent_of(request), _read_sequence(request)
    batches = state_services.batches
    async with batches.bodies.receive(request) as body:
        await state_services.answers.hold(request.scope, len(body))  # the results are about as large
        key = await batches.read_key(request, "stateful", body)
        batch = await batches.read(request, body, read_stateful(str(agent_id), body, batches.items_maximum))
        results: Any = await state_services.states.change(agent_id, batch, sequence, key)
    encoded: ItemResults = results  # a `Response` would copy it
    return encoded


def _read_sequence(request: AnyRequest) -> int | None:
    text = find_header(request.scope, _SEQUENCE_HEADER)
    if text is None:
        return None
    if not _DIGITS.fullmatch(text) or not 0 < int(text) <= BATCH_SEQUENCE_MAXIMUM:
        raise Malformed(f"{BATCH_SEQUENCE}: expected a number from 1 to {BATCH_SEQUENCE_MAXIMUM}")
    return int(text)


@get("/states", opt=READ | LARGE)
async def list_states(
    states: NamedDependency[States],
    filtered_agent: FilteredAgent,
    module: FromQuery[str | None] = None,
    after: After = None,
    limit: Limit = 100,
) -> Page[State]:
    """List states by agent, module, collector and id, optionally of one agent or module."""
    return await states.list(StateFilter(filtered_agent, module), decode_cursor(after), limit)


AGENT_ROUTES = [change_states]
MANAGEMENT_ROUTES = [list_states]
