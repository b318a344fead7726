"""Enrollment tokens, and the commands that a new agent's host runs."""

from typing import Annotated
from uuid import UUID

import msgspec
from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from comms_api.agents.model import NewEnrollmentToken
from comms_api.agents.service import Agents
from comms_api.cluster.service import Cluster
from comms_api.console.enrolling import authority_of, enrollment_commands
from comms_api.console.live import live
from comms_api.console.queries import Words, convert, read_query, receive_form
from comms_api.console.rendering import CHANGED, notify, render
from comms_api.errors import Unavailable
from comms_api.health.certificates import ServedCertificate
from comms_api.http.authentication import claims_of
from comms_api.http.bodies import Bodies
from comms_api.http.request import AnyRequest
from comms_api.http.roles import ADMINISTER

ROWS = 100
FORM_BYTES_MAXIMUM = 8 * 1024
LIFETIMES = (("3600", "an hour"), ("86400", "a day"), ("604800", "a week"), ("2592000", "30 days"))


class TokenList(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The state of the list: the last token of the previous page."""

    after: UUID | None = None


class TokenForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A new token; `groups` are separated by commas, and without `uses` the token has no limit of agents."""

    expires_in: float
    groups: Annotated[str, msgspec.Meta(max_length=4096)] = ""
    uses: int | None = None
    description: Words = ""


@get("/console/enrollment", opt=ADMINISTER)
@live
async def list_tokens(
    request: AnyRequest, agents: NamedDependency[Agents], certificate: NamedDependency[ServedCertificate]
) -> Response[bytes]:
    """List the enrollment tokens, and show the form for a new one."""
    state = read_query(request, TokenList)
    page = await agents.list_tokens(state.after, ROWS)
    authority = authority_of(certificate.chain)
    return render(request, "enrollment.html", state=state, page=page, authority=authority, lifetimes=LIFETIMES)


@post("/console/enrollment", opt=ADMINISTER, status_code=200)
async def create_token(
    request: AnyRequest,
    agents: NamedDependency[Agents],
    cluster: NamedDependency[Cluster],
    certificate: NamedDependency[ServedCertificate],
    bodies: NamedDependency[Bodies],
) -> Response[bytes]:
    """Create a token, and show it once, in the commands for a new agent's host."""
    form = await receive_form(request, bodies, TokenForm, FORM_BYTES_MAXIMUM)
    groups = [group.strip() for group in form.groups.split(",") if group.strip()]
    new = convert({**msgspec.to_builtins(form), "groups": groups}, NewEnrollmentToken)
    urls = [process.agent_url for process in await cluster.list() if process.state == "active"]
    if not urls:
        raise Unavailable("No node is active now, so no agent could enroll. No token was created.")
    made = await agents.make_token(new, claims_of(request).subject)
    commands = enrollment_commands(urls[0], made.token, authority_of(certificate.chain))
    return render(request, "enrollment_made.html", headers=CHANGED, commands=commands)


@post("/console/enrollment/{token_id:uuid}/revoke", opt=ADMINISTER, status_code=200)
async def revoke_token(
    request: AnyRequest, token_id: FromPath[UUID], agents: NamedDependency[Agents]
) -> Response[bytes]:
    """Delete a token; agents that have enrolled with it stay."""
    await agents.revoke_token(token_id)
    return notify(request, "The token is revoked. Agents that have enrolled with it stay.")


ROUTES = [list_tokens, create_token, revoke_token]
