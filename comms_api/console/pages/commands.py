"""Commands with their progress, and the orders of the fleet."""

from uuid import UUID

from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from comms_api.commands.service import Commands
from comms_api.console.live import live
from comms_api.console.queries import NewestFirst, Words, read_query
from comms_api.console.rendering import notify, render
from comms_api.http.authentication import claims_of
from comms_api.http.pages import LARGE
from comms_api.http.request import AnyRequest
from comms_api.http.roles import OPERATE, READ
from comms_api.orders.model import OrderFilter
from comms_api.orders.service import StoredOrders
from comms_api.protocol import OrderStatus


class CommandList(NewestFirst, frozen=True, forbid_unknown_fields=True):
    """The state of the list: its filters, as in the API, and the last command of the previous page."""

    user: Words | None = None
    action: Words | None = None


@get("/console/commands", opt=READ | LARGE)
@live
async def list_commands(request: AnyRequest, commands: NamedDependency[Commands]) -> Response[bytes]:
    """List the commands, newest first."""
    state = read_query(request, CommandList)
    page = await commands.list(OrderFilter(user=state.user, action=state.action), state.requested)
    return render(request, "commands.html", state=state, page=page)


class OrderList(NewestFirst, frozen=True, forbid_unknown_fields=True):
    """The state of a list of orders: its filters, as in the API, and the last order of the previous page."""

    status: OrderStatus | None = None
    action: Words | None = None


@get("/console/orders", opt=READ | LARGE)
@live
async def list_orders(request: AnyRequest, orders: NamedDependency[StoredOrders]) -> Response[bytes]:
    """List the orders of all agents, newest first."""
    state = read_query(request, OrderList)
    order_filter = OrderFilter(status=state.status, action=state.action)
    page = await orders.list(order_filter, state.requested, claims_of(request).subject)
    return render(request, "orders.html", state=state, page=page)


@get("/console/commands/{request_id:uuid}", opt=READ | LARGE)
@live
async def show_command(
    request: AnyRequest,
    request_id: FromPath[UUID],
    commands: NamedDependency[Commands],
    orders: NamedDependency[StoredOrders],
) -> Response[bytes]:
    """Show a command, its progress, and its orders."""
    state = read_query(request, OrderList)
    progress = await commands.get(request_id)
    order_filter = OrderFilter(request_id=request_id, status=state.status)
    page = await orders.list(order_filter, state.requested, claims_of(request).subject)
    return render(request, "command.html", state=state, progress=progress, command=progress.command, page=page)


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


ROUTES = [list_commands, show_command, cancel_command, pause_command, resume_command, list_orders]
