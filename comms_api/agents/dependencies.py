"""Dependencies of routes: the agents that a request names in its path or query, by id or by name."""

from typing import Annotated, TypeAlias
from uuid import UUID

from litestar.di import NamedDependency, Provide
from litestar.params import FromPath, QueryParameter

from comms_api.agents.service import Agents

AgentId: TypeAlias = NamedDependency[UUID]
"""Provides `agent_id`: the agent that the path names as `{agent:str}`."""

FilteredAgent: TypeAlias = NamedDependency[UUID | None]
"""Provides `filtered_agent`: the agent that the query names as `agent_id`."""

FilteredTargets: TypeAlias = NamedDependency[list[str]]
"""Provides `filtered_targets`: the target ids of commands that match the query's `target`."""

AgentQuery = Annotated[str | None, QueryParameter(name="agent_id", description="an agent's id or name")]
TargetQuery = Annotated[
    str | None, QueryParameter(name="target", description="an agent's id or name, a group or a service")
]


async def find_agent(agent: FromPath[str], agents: NamedDependency[Agents]) -> UUID:
    """Return the id of the agent that a path names by its id or its name."""
    return await agents.resolve(agent)


async def find_filtered_agent(agents: NamedDependency[Agents], agent: AgentQuery = None) -> UUID | None:
    """Return the id of the agent that a query names by its id or its name."""
    return None if agent is None else await agents.resolve(agent)


async def find_filtered_targets(agents: NamedDependency[Agents], target: TargetQuery = None) -> list[str]:
    """Return the target ids that match a query: the text itself, and the id of the agent with that name."""
    return [] if target is None else await agents.target_names(target)


NAMED_AGENTS = {
    "agent_id": Provide(find_agent),
    "filtered_agent": Provide(find_filtered_agent),
    "filtered_targets": Provide(find_filtered_targets),
}
"""The names under which routes receive these dependencies."""
