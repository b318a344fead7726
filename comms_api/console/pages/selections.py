"""Select agents in the list, and act on all agents of a selection."""

from typing import Annotated
from urllib.parse import parse_qsl
from uuid import UUID

import msgspec
from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from comms_api.agents.model import Visibility
from comms_api.console.pages.agents import AgentList
from comms_api.console.queries import (
    FIELDS_MAXIMUM,
    ROWS,
    Words,
    convert,
    query_of,
    read_form,
    read_pairs,
    read_query,
    receive_form,
)
from comms_api.console.rendering import is_partial, notify, render
from comms_api.errors import Malformed
from comms_api.groups.service import Groups
from comms_api.http.authentication import claims_of
from comms_api.http.bodies import Bodies
from comms_api.http.request import AnyRequest
from comms_api.http.roles import OPERATE
from comms_api.selections.model import AGENTS_MAXIMUM, Action, Selection
from comms_api.selections.service import Selections

FORM_BYTES_MAXIMUM = 16 * 1024
GROUPS_SHOWN = 100


class NewSelection(msgspec.Struct, frozen=True):
    """The chosen agents of a list, or with `matching` all agents that match the query string of the list."""

    agents: Annotated[list[UUID], msgspec.Meta(max_length=ROWS)] = []
    matching: bool = False
    query: Annotated[str, msgspec.Meta(max_length=FORM_BYTES_MAXIMUM)] = ""


def _read_selection(body: bytes) -> NewSelection:
    fields = [(name, value) for name, value in read_pairs(body) if value]
    chosen = [value for name, value in fields if name == "agents"]
    return convert({**dict(fields), "agents": chosen}, NewSelection)


@post("/console/selections", opt=OPERATE, status_code=200)
async def select_agents(
    request: AnyRequest, selections: NamedDependency[Selections], bodies: NamedDependency[Bodies]
) -> Response[bytes]:
    """Select agents, and open the page of the selection."""
    async with bodies.receive(request, FORM_BYTES_MAXIMUM) as body:
        form = _read_selection(body)
    user = claims_of(request).subject
    if form.matching:
        state = read_form(form.query.removeprefix("?").encode(), AgentList)
        query = query_of(state, after=None).removeprefix("?")
        visibility = Visibility(state.hidden, state.clones)
        selection = await selections.select_matching(user, query, state.filter, visibility)
    else:
        selection = await selections.select(user, form.agents)
    return notify(request, "", location=f"/console/selections/{selection.id}")


def filters_of(selection: Selection) -> list[tuple[str, str]]:
    """Return the names and values of the filters of a selection."""
    return parse_qsl(selection.query or "", max_num_fields=FIELDS_MAXIMUM)


@get("/console/selections", opt=OPERATE)
async def list_selections(request: AnyRequest, selections: NamedDependency[Selections]) -> Response[bytes]:
    """List the user's selections, newest first."""
    found = await selections.list(claims_of(request).subject)
    return render(request, "selections.html", selections=found, filters_of=filters_of, maximum=AGENTS_MAXIMUM)


class SelectedList(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The state of the list of a selection's agents: the last agent of the previous page."""

    after: UUID | None = None


@get("/console/selections/{selection_id:uuid}", opt=OPERATE)
async def show_selection(
    request: AnyRequest,
    selection_id: FromPath[UUID],
    selections: NamedDependency[Selections],
    groups: NamedDependency[Groups],
) -> Response[bytes]:
    """Show a selection, the progress of the action on it, and its agents."""
    state = read_query(request, SelectedList)
    selection = await selections.get(selection_id, claims_of(request).subject)
    page = await selections.list_agents(selection, state.after, ROWS)
    offered = () if is_partial(request) else (await groups.list(None, GROUPS_SHOWN)).items
    return render(
        request,
        "selection.html",
        selection=selection,
        filters=filters_of(selection),
        state=state,
        page=page,
        groups=[group.name for group in offered],
    )


class ActionForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An action on all agents of a selection."""

    action: Action
    group: Words | None = None


@post("/console/selections/{selection_id:uuid}/begin", opt=OPERATE, status_code=200)
async def begin_action(
    request: AnyRequest,
    selection_id: FromPath[UUID],
    selections: NamedDependency[Selections],
    bodies: NamedDependency[Bodies],
) -> Response[bytes]:
    """Begin an action on all agents of a selection."""
    form = await receive_form(request, bodies, ActionForm, FORM_BYTES_MAXIMUM)
    needs_group = form.action in {"join", "leave"}
    if needs_group and form.group is None:
        raise Malformed("group: write the name of a group")
    group = form.group if needs_group else None
    await selections.begin(selection_id, claims_of(request).subject, form.action, group)
    return notify(request, "The action runs. It continues if you leave this page.")


@post("/console/selections/{selection_id:uuid}/stop", opt=OPERATE, status_code=200)
async def stop_action(
    request: AnyRequest, selection_id: FromPath[UUID], selections: NamedDependency[Selections]
) -> Response[bytes]:
    """Stop the action on a selection; the agents that it has changed stay so."""
    await selections.stop(selection_id, claims_of(request).subject)
    return notify(request, "The action has stopped.")


ROUTES = [select_agents, list_selections, show_selection, begin_action, stop_action]
