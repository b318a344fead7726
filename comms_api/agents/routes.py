"""The management API's agents."""

from typing import Annotated
from uuid import UUID

from litestar import delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter

from comms_api.agents.model import Agent, AgentFilter, AgentStatus
from comms_api.agents.service import Agents
from comms_api.http.pages import Limit, Page
from comms_api.protocol import EnrolledAgent, Enrollment

Group = Annotated[str | None, QueryParameter(description="only members of this group")]


@post("/agents")
async def enroll_agent(data: JSONBody[Enrollment], agents: NamedDependency[Agents]) -> EnrolledAgent:
    """Enroll an agent under the UUIDv7 and the key that it chose; 409 when its id or name is taken."""
    return await agents.enroll(data)


@get("/agents")
async def list_agents(  # noqa: PLR0913 - one parameter per filter
    agents: NamedDependency[Agents],
    name: FromQuery[str | None] = None,
    group: Group = None,
    status: FromQuery[AgentStatus | None] = None,
    after: FromQuery[UUID | None] = None,
    limit: Limit = 100,
) -> Page[Agent]:
    """List agents by id, all or those with a name, in a group, of a status."""
    return await agents.list(AgentFilter(name, group, status), after, limit)


@get("/agents/{agent_id:uuid}")
async def get_agent(agent_id: FromPath[UUID], agents: NamedDependency[Agents]) -> Agent:
    """Show one agent."""
    return await agents.get(agent_id)


@delete("/agents/{agent_id:uuid}")
async def delete_agent(agent_id: FromPath[UUID], agents: NamedDependency[Agents]) -> None:
    """Delete an agent; its tokens end on every node within seconds, its events and orders stay."""
    await agents.delete(agent_id)


ROUTES = [enroll_agent, list_agents, get_agent, delete_agent]
