"""The groups, and the page of one group."""

from urllib.parse import quote

import msgspec
from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from comms_api.console.live import live
from comms_api.console.queries import Words, read_query, receive_form
from comms_api.console.rendering import is_partial, notify, render
from comms_api.files.service import Files
from comms_api.groups.model import GroupChange, NewGroup
from comms_api.groups.service import Groups
from comms_api.http.bodies import Bodies
from comms_api.http.request import AnyRequest
from comms_api.http.roles import OPERATE, READ

ROWS = 100
FORM_BYTES_MAXIMUM = 4 * 1024
COUNTED_AT_ONCE = 5_000
"""The page of a group with more agents is shown first, and then loads how many of them run its files."""


class GroupList(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The state of the list: the last name of the previous page."""

    after: Words | None = None


@get("/console/groups", opt=READ)
@live
async def list_groups(request: AnyRequest, groups: NamedDependency[Groups]) -> Response[bytes]:
    """List the groups by name."""
    state = read_query(request, GroupList)
    return render(request, "groups.html", state=state, page=await groups.list(state.after, ROWS))


@post("/console/groups", opt=OPERATE, status_code=200)
async def create_group(
    request: AnyRequest, groups: NamedDependency[Groups], bodies: NamedDependency[Bodies]
) -> Response[bytes]:
    """Create an empty group, and open its page."""
    group = await receive_form(request, bodies, NewGroup, FORM_BYTES_MAXIMUM)
    await groups.create(group)
    return notify(request, "", location=group_url(group.name))


def group_url(name: str) -> str:
    """Return the URL of a group's page."""
    return f"/console/groups/{quote(name, safe='')}"


@get("/console/groups/{group:str}", opt=READ)
@live
async def show_group(
    request: AnyRequest, group: FromPath[str], groups: NamedDependency[Groups], files: NamedDependency[Files]
) -> Response[bytes]:
    """Show a group's files, and how many of its agents run them."""
    shown = await groups.get(group)
    is_counted = shown.agents <= COUNTED_AT_ONCE or is_partial(request)
    drift = await files.count_drift(group) if is_counted else None
    return render(request, "group.html", group=shown, drift=drift, files=await files.list(group))


@post("/console/groups/{group:str}/precedence", opt=OPERATE, status_code=200)
async def change_precedence(
    request: AnyRequest, group: FromPath[str], groups: NamedDependency[Groups], bodies: NamedDependency[Bodies]
) -> Response[bytes]:
    """Set the precedence of a group."""
    change = await receive_form(request, bodies, GroupChange, FORM_BYTES_MAXIMUM)
    await groups.change(group, change)
    return notify(request, f"The precedence of {group} is {change.precedence}.")


@post("/console/groups/{group:str}/push", opt=OPERATE, status_code=200)
async def push_files(request: AnyRequest, group: FromPath[str], files: NamedDependency[Files]) -> Response[bytes]:
    """Have the agents of a group fetch their files again."""
    agents = await files.push(group)
    return notify(request, f"{agents} agents get an order to fetch their files again.")


@post("/console/groups/{group:str}/delete", opt=OPERATE, status_code=200)
async def delete_group(request: AnyRequest, group: FromPath[str], groups: NamedDependency[Groups]) -> Response[bytes]:
    """Delete a group; its agents stay enrolled."""
    await groups.delete(group)
    return notify(request, "", location="/console/groups")


ROUTES = [list_groups, create_group, show_group, change_precedence, push_files, delete_group]
