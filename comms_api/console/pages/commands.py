"""Commands with their progress, and what operators can do with them."""

import secrets
from uuid import UUID

import msgspec
from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath
from litestar.response import Stream

from comms_api.commands.model import Command, Retry
from comms_api.commands.routes import SubmissionServices
from comms_api.commands.service import Commands
from comms_api.commands.submission.idempotency import read_key
from comms_api.commands.submission.targets import agent_ids
from comms_api.console.live import live
from comms_api.console.pages.orders import OrderList, recipients_of
from comms_api.console.queries import NewestFirst, Words, read_query, receive_form
from comms_api.console.rendering import HEADERS, notify, render
from comms_api.http.authentication import claims_of
from comms_api.http.pages import EXPORT, LARGE
from comms_api.http.request import AnyRequest
from comms_api.http.roles import OPERATE, READ
from comms_api.orders.export import MEDIA_TYPES, ExportForm, export_orders
from comms_api.orders.model import OrderFilter
from comms_api.orders.service import StoredOrders

RETRY_BYTES_MAXIMUM = 1_024
NAMED_SHOWN = 10


class CommandList(NewestFirst, frozen=True, forbid_unknown_fields=True):
    """The state of the list: its filters, as in the API, and the last command of the previous page."""

    user: Words | None = None
    action: Words | None = None


@get("/console/commands", opt=READ | LARGE)
@live
async def list_commands(
    request: AnyRequest, commands: NamedDependency[Commands], orders: NamedDependency[StoredOrders]
) -> Response[bytes]:
    """List the commands, newest first."""
    state = read_query(request, CommandList)
    page = await commands.list(OrderFilter(user=state.user, action=state.action), state.requested)
    names = await orders.name_recipients([agent_id for item in page.items for agent_id in _named_agents(item)])
    return render(request, "commands.html", state=state, page=page, names=names)


def _named_agents(command: Command) -> list[UUID]:
    """Return the first agents that the target of a command names."""
    return agent_ids(command.target.ids[:NAMED_SHOWN]) if command.target.type == "agent" else []


@get("/console/commands/{request_id:uuid}", opt=READ | LARGE)
@live
async def show_command(
    request: AnyRequest,
    request_id: FromPath[UUID],
    commands: NamedDependency[Commands],
    orders: NamedDependency[StoredOrders],
) -> Response[bytes]:
    """Show a command, its progress, its failures by message, and its orders."""
    state = read_query(request, OrderList)
    summary = await commands.summarize(request_id)
    order_filter = msgspec.structs.replace(state.filter, request_id=request_id)
    page = await orders.list(order_filter, state.requested, claims_of(request).subject)
    shown = [agent_id for group in summary.failures for agent_id in group.agents] + _named_agents(summary.command)
    return render(
        request,
        "command.html",
        state=state,
        summary=summary,
        command=summary.command,
        page=page,
        names=await orders.name_recipients([*recipients_of(page.items), *shown]),
        token=secrets.token_hex(16),
    )


@post("/console/commands/{request_id:uuid}/cancel", opt=OPERATE, status_code=200)
async def cancel_command(
    request: AnyRequest, request_id: FromPath[UUID], commands: NamedDependency[Commands]
) -> Response[bytes]:
    """Cancel the open orders of a command."""
    cancelled = await commands.cancel(request_id, claims_of(request).subject)
    return notify(request, f"{cancelled.cancelled} open orders are cancelled.")


@post("/console/commands/{request_id:uuid}/pause", opt=OPERATE, status_code=200)
async def pause_command(
    request: AnyRequest, request_id: FromPath[UUID], commands: NamedDependency[Commands]
) -> Response[bytes]:
    """Hold the orders of a command that no agent has received."""
    held = await commands.pause(request_id, claims_of(request).subject)
    return notify(request, f"The command is paused; {held.orders} orders are held.")


@post("/console/commands/{request_id:uuid}/resume", opt=OPERATE, status_code=200)
async def resume_command(
    request: AnyRequest, request_id: FromPath[UUID], commands: NamedDependency[Commands]
) -> Response[bytes]:
    """Offer the held orders of a command."""
    held = await commands.resume(request_id, claims_of(request).subject)
    return notify(request, f"The command continues; {held.orders} orders are released.")


class RetryForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The one-time token of the button: a double click submits one command."""

    token: Words


@post("/console/commands/{request_id:uuid}/retry", opt=OPERATE, status_code=200)
async def retry_command(
    request: AnyRequest, request_id: FromPath[UUID], submission_services: NamedDependency[SubmissionServices]
) -> Response[bytes]:
    """Submit a command again to the agents whose orders have failed or expired until now, and open its page."""
    form = await receive_form(request, submission_services.bodies, RetryForm, RETRY_BYTES_MAXIMUM)
    user = claims_of(request).subject
    key = read_key(user, f"console {form.token}", request_id.bytes)
    [repeated] = await submission_services.submissions.retry(request_id, user, Retry(), key)
    return notify(request, "", location=f"/console/commands/{repeated.request_id}")


class Export(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The form of an export."""

    format: ExportForm = "csv"


@get("/console/commands/{request_id:uuid}/results", opt=READ | EXPORT)
async def export_results(
    request: AnyRequest,
    request_id: FromPath[UUID],
    commands: NamedDependency[Commands],
    orders: NamedDependency[StoredOrders],
) -> Stream:
    """Stream every order of a command with its result, as CSV or lines of JSON."""
    form = read_query(request, Export).format
    await commands.get(request_id)
    content = export_orders(orders.stream(request_id, claims_of(request).subject), form)
    headers = {**HEADERS, "Content-Disposition": f'attachment; filename="{request_id}.{form}"'}
    return Stream(content, media_type=MEDIA_TYPES[form], headers=headers)


ROUTES = [
    list_commands,
    show_command,
    cancel_command,
    pause_command,
    resume_command,
    retry_command,
    export_results,
]
