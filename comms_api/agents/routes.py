"""The management API's agents."""

from typing import Annotated, Literal
from uuid import UUID

import msgspec
from litestar import delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter

from comms_api.agents.dependencies import AgentId
from comms_api.agents.model import (
    Agent,
    AgentChange,
    AgentFilter,
    AgentKey,
    AgentStatus,
    EnrollmentToken,
    MadeEnrollmentToken,
    NewEnrollmentToken,
    NewKey,
    Visibility,
)
from comms_api.agents.service import Agents
from comms_api.database.pages import Page
from comms_api.errors import Invalid
from comms_api.http.authentication import PUBLIC, bearer_token, claims_of, client_of
from comms_api.http.bodies import Bodies
from comms_api.http.description.operations import ENROLLMENT, authenticates, reads
from comms_api.http.pages import LARGE, Limit
from comms_api.http.request import AnyRequest, remote_address
from comms_api.http.roles import ADMINISTER, OPERATE, READ
from comms_api.protocol import EnrolledAgent, Enrollment
from comms_api.text.faults import read_json

_ENROLLMENT = msgspec.json.Decoder(Enrollment)

Group = Annotated[str | None, QueryParameter(description="only members of this group")]
LabelQuery = Annotated[list[str] | None, QueryParameter(name="label", description="key:value; may be repeated")]


@post("/agents", opt=OPERATE)
async def enroll_agent(
    request: AnyRequest, data: JSONBody[Enrollment], agents: NamedDependency[Agents]
) -> EnrolledAgent:
    """Enroll an agent with the id (UUID version 4 or 7) and key that it chose; 409 if its id or name is taken.

    Without an id or a key, the server makes one. The answer has the key only if the server made it, and only this once.
    """
    return await agents.enroll(data, remote_address(request))


@get("/agents", opt=READ | LARGE)
async def list_agents(  # noqa: PLR0913 - one parameter per filter
    agents: NamedDependency[Agents],
    name: FromQuery[str | None] = None,
    group: Group = None,
    status: FromQuery[AgentStatus | None] = None,
    os: FromQuery[str | None] = None,
    version: FromQuery[str | None] = None,
    label: LabelQuery = None,
    in_sync: FromQuery[bool | None] = None,
    node: FromQuery[str | None] = None,
    hidden: FromQuery[bool] = False,  # noqa: FBT002 - parameters of routes are given by name
    clones: FromQuery[Literal["proved", "suspected"] | None] = None,
    after: FromQuery[UUID | None] = None,
    limit: Limit = 100,
) -> Page[Agent]:
    """List agents by id, filtered by every given parameter; `*` in a name, system or version matches any text.

    With `in_sync`, a page examines at most 5,000 agents, so it may be short or empty and have a `next`.
    """
    agent_filter = AgentFilter(name, group, status, os, version, _labels(label or []), in_sync, node)
    return await agents.list(agent_filter, Visibility(hidden, clones), after, limit)


def _labels(texts: list[str]) -> dict[str, str]:
    pairs = [text.partition(":") for text in texts]
    if any(not colon for _, colon, _ in pairs):
        raise Invalid("label: must be like key:value")
    return {key: value for key, _, value in pairs}


@get("/agents/{agent:str}", opt=READ)
async def get_agent(agent_id: AgentId, agents: NamedDependency[Agents]) -> Agent:
    """Show one agent."""
    return await agents.get(agent_id)


@patch("/agents/{agent:str}", opt=OPERATE)
async def change_agent(agent_id: AgentId, data: JSONBody[AgentChange], agents: NamedDependency[Agents]) -> Agent:
    """Set an agent's labels, source addresses, or block; a block or other addresses revoke its tokens."""
    return await agents.change(agent_id, data)


@delete("/agents/{agent:str}", opt=OPERATE)
async def delete_agent(agent_id: AgentId, agents: NamedDependency[Agents]) -> None:
    """Delete an agent and its states, and revoke its tokens on every node within seconds.

    Its open orders expire; its events and ended orders stay.
    """
    await agents.delete(agent_id)


@post("/agents/{agent:str}/key", status_code=200, opt=ADMINISTER)
async def change_key(agent_id: AgentId, data: JSONBody[NewKey], agents: NamedDependency[Agents]) -> AgentKey:
    """Give an agent a new key after a compromise: this revokes the old key and all tokens. The agent is not notified.

    Without a key in the body, the server generates one. To rotate a good key, send a `rotate-key` command instead.
    """
    return await agents.set_key(agent_id, data.key)


@post("/enroll", opt=PUBLIC | authenticates(ENROLLMENT) | reads(Enrollment))
async def enroll_by_token(
    request: AnyRequest, agents: NamedDependency[Agents], bodies: NamedDependency[Bodies]
) -> EnrolledAgent:
    """Enroll an agent into the groups of an enrollment token, which is sent as the Bearer token."""
    token, address, client = bearer_token(request), remote_address(request), client_of(request.scope)
    async with agents.enrollments.turn(client):
        await agents.check_token(token, address)
    enrollment = read_json(await bodies.receive_public(request), _ENROLLMENT, "an enrollment")
    async with agents.enrollments.turn(client):
        return await agents.enroll_by_token(token, enrollment, address)


@post("/enrollment-tokens", opt=ADMINISTER)
async def make_enrollment_token(
    request: AnyRequest, data: JSONBody[NewEnrollmentToken], agents: NamedDependency[Agents]
) -> MadeEnrollmentToken:
    """Create a token that enrolls agents into groups, with a lifetime in seconds; it is shown only once.

    Without `uses`, its number of uses is unlimited.
    """
    return await agents.make_token(data, claims_of(request).subject)


@get("/enrollment-tokens", opt=ADMINISTER)
async def list_enrollment_tokens(
    agents: NamedDependency[Agents], after: FromQuery[UUID | None] = None, limit: Limit = 100
) -> Page[EnrollmentToken]:
    """List enrollment tokens, oldest first."""
    return await agents.list_tokens(after, limit)


@delete("/enrollment-tokens/{token_id:uuid}", opt=ADMINISTER)
async def revoke_enrollment_token(token_id: FromPath[UUID], agents: NamedDependency[Agents]) -> None:
    """Revoke an enrollment token; the agents that it enrolled stay."""
    await agents.revoke_token(token_id)


AGENT_ROUTES = [enroll_by_token]
ROUTES = [
    enroll_agent,
    list_agents,
    get_agent,
    change_agent,
    delete_agent,
    change_key,
    enroll_by_token,
    make_enrollment_token,
    list_enrollment_tokens,
    revoke_enrollment_token,
]
