"""The list of agents, and the page of one agent."""

from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from litestar import Response, get, post
from litestar.di import NamedDependency

from comms_api.agents.dependencies import AgentId
from comms_api.agents.model import Agent, AgentChange, AgentFilter, AgentStatus, Pattern, Visibility
from comms_api.agents.service import Agents
from comms_api.audit.model import EntryFilter
from comms_api.audit.service import Audit
from comms_api.console.live import live
from comms_api.console.queries import ROWS, NewestFirst, Words, read_labels, read_query, receive_form
from comms_api.console.rendering import notify, render
from comms_api.database.pages import PageRequest
from comms_api.diagnosis.service import Diagnoses
from comms_api.events.reading.model import EventFilter
from comms_api.events.reading.service import EventReader
from comms_api.files.service import Files
from comms_api.groups.service import Groups
from comms_api.http.authentication import claims_of
from comms_api.http.bodies import Bodies
from comms_api.http.pages import LARGE
from comms_api.http.request import AnyRequest
from comms_api.http.roles import ADMINISTER, OPERATE, READ
from comms_api.orders.model import OrderFilter
from comms_api.orders.service import StoredOrders
from comms_api.states.cursors import decode_cursor
from comms_api.states.model import STATEFUL_COLLECTORS, StateFilter
from comms_api.states.service import States

LATEST_EVENTS = 20
LABELS_BYTES_MAXIMUM = 64 * 1024


class AgentList(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The state of the list: its filters, as in the API, and the last agent of the previous page."""

    name: Pattern | None = None
    status: AgentStatus | None = None
    group: Pattern | None = None
    os: Pattern | None = None
    version: Pattern | None = None
    label: Pattern | None = None
    in_sync: bool | None = None
    node: Pattern | None = None
    hidden: bool = False
    clones: Literal["proved", "suspected"] | None = None
    after: UUID | None = None

    @property
    def filter(self) -> AgentFilter:
        """The filter of the service; a name without `*` matches any part of a name."""
        name = None if self.name is None else self.name if "*" in self.name else f"*{self.name}*"
        return AgentFilter(
            name, self.group, self.status, self.os, self.version, read_labels(self.label), self.in_sync, self.node
        )


def system_of(agent: Agent) -> str:
    """Return the operating system that an agent has described, as one text."""
    host: Any = msgspec.json.decode(agent.host)
    system = host.get("os") if isinstance(host, dict) else None
    if not isinstance(system, dict):
        return ""
    return " ".join(str(system[part]) for part in ("name", "version") if system.get(part))


@get("/console/agents", opt=READ | LARGE)
@live
async def list_agents(request: AnyRequest, agents: NamedDependency[Agents]) -> Response[bytes]:
    """List agents by the filters in the URL."""
    state = read_query(request, AgentList)
    page = await agents.list(state.filter, Visibility(state.hidden, state.clones), state.after, ROWS)
    return render(request, "agents.html", state=state, page=page, system_of=system_of, is_first=state == AgentList())


@get("/console/agents/{agent:str}", opt=READ | LARGE)
@live
async def show_agent(
    request: AnyRequest,
    agent_id: AgentId,
    diagnoses: NamedDependency[Diagnoses],
    event_reader: NamedDependency[EventReader],
    files: NamedDependency[Files],
) -> Response[bytes]:
    """Show an agent's identity, the reasons why its orders wait, and its latest events."""
    diagnosis = await diagnoses.diagnose(agent_id)
    newest = PageRequest(LATEST_EVENTS, order="newest")
    events = await event_reader.list(claims_of(request).subject, EventFilter(agent_id), newest)
    configuration = await files.configuration(agent_id)
    drift = await files.compare_running(agent_id, configuration.reported)
    return render(
        request,
        "agent.html",
        agent=diagnosis.agent,
        diagnosis=diagnosis,
        configuration=configuration,
        drift=drift,
        events=events.items,
        system=system_of(diagnosis.agent),
        labels="\n".join(f"{key}:{value}" for key, value in msgspec.json.decode(diagnosis.agent.labels).items()),
    )


class StateList(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The state of the list of an agent's states."""

    contains: Words | None = None
    module: Words | None = None
    after: Words | None = None


@get("/console/agents/{agent:str}/states", opt=READ | LARGE)
async def list_states(
    request: AnyRequest, agent_id: AgentId, agents: NamedDependency[Agents], states: NamedDependency[States]
) -> Response[bytes]:
    """List the states of an agent by module, collector and id."""
    state = read_query(request, StateList)
    agent = await agents.get(agent_id)
    page = await states.list(StateFilter(agent_id, state.module, state.contains), decode_cursor(state.after), ROWS)
    return render(
        request, "agent_states.html", agent=agent, state=state, page=page, modules=sorted(STATEFUL_COLLECTORS)
    )


@get("/console/agents/{agent:str}/orders", opt=READ | LARGE)
async def list_agent_orders(
    request: AnyRequest, agent_id: AgentId, agents: NamedDependency[Agents], orders: NamedDependency[StoredOrders]
) -> Response[bytes]:
    """List the orders of an agent, newest first."""
    state = read_query(request, NewestFirst)
    agent = await agents.get(agent_id)
    page = await orders.list(OrderFilter(agent_id=agent_id), state.requested, claims_of(request).subject)
    return render(request, "agent_orders.html", agent=agent, state=state, page=page)


@get("/console/agents/{agent:str}/audit", opt=ADMINISTER | LARGE)
async def list_agent_audit(
    request: AnyRequest, agent_id: AgentId, agents: NamedDependency[Agents], audit: NamedDependency[Audit]
) -> Response[bytes]:
    """List the changes of an agent by people, newest first."""
    state = read_query(request, NewestFirst)
    agent = await agents.get(agent_id)
    page = await audit.list(EntryFilter(subject="agents", key=str(agent_id)), state.requested)
    return render(request, "agent_audit.html", agent=agent, state=state, page=page)


@post("/console/agents/{agent:str}/block", opt=OPERATE, status_code=200)
async def block_agent(request: AnyRequest, agent_id: AgentId, agents: NamedDependency[Agents]) -> Response[bytes]:
    """Block an agent and revoke its tokens."""
    agent = await agents.change(agent_id, AgentChange(is_blocked=True))
    return notify(request, f"{agent.name} is blocked: it cannot log in, and its tokens are revoked.")


@post("/console/agents/{agent:str}/unblock", opt=OPERATE, status_code=200)
async def unblock_agent(request: AnyRequest, agent_id: AgentId, agents: NamedDependency[Agents]) -> Response[bytes]:
    """Let an agent log in again."""
    agent = await agents.change(agent_id, AgentChange(is_blocked=False))
    return notify(request, f"{agent.name} may log in again.")


@post("/console/agents/{agent:str}/push", opt=OPERATE, status_code=200)
async def push_files(request: AnyRequest, agent_id: AgentId, files: NamedDependency[Files]) -> Response[bytes]:
    """Have an agent fetch its files again."""
    await files.push_to_agent(agent_id)
    return notify(request, "The agent gets an order to fetch its files again.")


@post("/console/agents/{agent:str}/delete", opt=OPERATE, status_code=200)
async def delete_agent(request: AnyRequest, agent_id: AgentId, agents: NamedDependency[Agents]) -> Response[bytes]:
    """Delete an agent and its states."""
    await agents.delete(agent_id)
    return notify(request, "", location="/console/agents")


class LabelsForm(msgspec.Struct, frozen=True):
    """The labels of an agent, as `key:value` separated by commas or lines."""

    labels: Annotated[str, msgspec.Meta(max_length=LABELS_BYTES_MAXIMUM)] = ""


@post("/console/agents/{agent:str}/labels", opt=OPERATE, status_code=200)
async def change_labels(
    request: AnyRequest, agent_id: AgentId, agents: NamedDependency[Agents], bodies: NamedDependency[Bodies]
) -> Response[bytes]:
    """Set the labels of an agent."""
    form = await receive_form(request, bodies, LabelsForm, LABELS_BYTES_MAXIMUM)
    labels = read_labels(form.labels.replace("\n", ","))
    await agents.change(agent_id, msgspec.convert({"labels": labels}, AgentChange))
    return notify(request, "The labels are stored.")


class GroupForm(msgspec.Struct, frozen=True):
    """A group for an agent."""

    group: Words


@post("/console/agents/{agent:str}/groups", opt=OPERATE, status_code=200)
async def join_group(
    request: AnyRequest, agent_id: AgentId, groups: NamedDependency[Groups], bodies: NamedDependency[Bodies]
) -> Response[bytes]:
    """Add an agent to a group."""
    group = (await receive_form(request, bodies, GroupForm, LABELS_BYTES_MAXIMUM)).group
    added = await groups.add(group, [str(agent_id)])
    return notify(request, f"The agent joined {group}." if added else f"The agent is a member of {group} already.")


@post("/console/agents/{agent:str}/groups/leave", opt=OPERATE, status_code=200)
async def leave_group(
    request: AnyRequest, agent_id: AgentId, groups: NamedDependency[Groups], bodies: NamedDependency[Bodies]
) -> Response[bytes]:
    """Remove an agent from a group."""
    group = (await receive_form(request, bodies, GroupForm, LABELS_BYTES_MAXIMUM)).group
    await groups.remove(group, agent_id)
    return notify(request, f"The agent left {group}.")


ROUTES = [
    list_agents,
    show_agent,
    list_states,
    list_agent_orders,
    list_agent_audit,
    block_agent,
    unblock_agent,
    push_files,
    delete_agent,
    change_labels,
    join_group,
    leave_group,
]
