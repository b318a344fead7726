"""The management API's groups; `GET /agents?group=` lists the members of a group."""

from litestar import delete, get, patch, post, put
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from comms_api.agents.dependencies import AgentId
from comms_api.database.pages import Page
from comms_api.groups.model import Group, GroupChange, Membership, NewGroup, NewMembers
from comms_api.groups.service import Groups
from comms_api.http.pages import After, Limit
from comms_api.http.roles import OPERATE, READ


@post("/groups", opt=OPERATE)
async def create_group(data: JSONBody[NewGroup], groups: NamedDependency[Groups]) -> NewGroup:
    """Create an empty group; 409 when its name is taken."""
    await groups.create(data)
    return data


@patch("/groups/{name:str}", status_code=204, opt=OPERATE)
async def change_group(name: FromPath[str], data: JSONBody[GroupChange], groups: NamedDependency[Groups]) -> None:
    """Set the precedence of a group."""
    await groups.change(name, data)


@get("/groups", opt=READ)
async def list_groups(groups: NamedDependency[Groups], after: After = None, limit: Limit = 100) -> Page[Group]:
    """List groups by name, each with its number of agents."""
    return await groups.list(after, limit)


@delete("/groups/{name:str}", opt=OPERATE)
async def delete_group(name: FromPath[str], groups: NamedDependency[Groups]) -> None:
    """Delete a group; its agents stay enrolled."""
    await groups.delete(name)


@post("/groups/{name:str}/agents", status_code=200, opt=OPERATE)
async def add_members(name: FromPath[str], data: JSONBody[NewMembers], groups: NamedDependency[Groups]) -> Membership:
    """Add agents to a group, all or none; 404 names an unknown agent."""
    return Membership(await groups.add(name, data.agents))


@put("/groups/{name:str}/agents/{agent:str}", opt=OPERATE)
async def add_member(name: FromPath[str], agent_id: AgentId, groups: NamedDependency[Groups]) -> Membership:
    """Add one agent to a group; repeating it changes nothing."""
    return Membership(await groups.add(name, [str(agent_id)]))


@delete("/groups/{name:str}/agents/{agent:str}", opt=OPERATE)
async def remove_member(name: FromPath[str], agent_id: AgentId, groups: NamedDependency[Groups]) -> None:
    """Remove one agent from a group."""
    await groups.remove(name, agent_id)


ROUTES = [create_group, list_groups, change_group, delete_group, add_members, add_member, remove_member]
