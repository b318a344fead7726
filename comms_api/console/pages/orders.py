"""The orders of the fleet, and one order."""

from collections.abc import Iterable
from uuid import UUID

import msgspec
from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from comms_api.agents.service import Agents
from comms_api.console.live import live
from comms_api.console.queries import NewestFirst, Words, read_query
from comms_api.console.rendering import notify, render
from comms_api.http.authentication import claims_of
from comms_api.http.pages import LARGE
from comms_api.http.request import AnyRequest
from comms_api.http.roles import OPERATE, READ
from comms_api.orders.model import OrderFilter, OutcomeFilter, StoredOrder
from comms_api.orders.service import StoredOrders
from comms_api.protocol import OrderStatus


class OrderList(NewestFirst, frozen=True, forbid_unknown_fields=True):
    """The state of a list of orders: its filters, as in the API, and the last order of the previous page."""

    status: OrderStatus | None = None
    outcome: OutcomeFilter | None = None
    code: int | None = None
    agent: Words | None = None
    user: Words | None = None
    action: Words | None = None

    @property
    def filter(self) -> OrderFilter:
        """The filter of the service, without the agent."""
        return OrderFilter(status=self.status, outcome=self.outcome, code=self.code, user=self.user, action=self.action)


def recipients_of(orders: Iterable[StoredOrder]) -> list[UUID]:
    """Return the agents of orders."""
    return [order.agent_id for order in orders if order.agent_id is not None]


@get("/console/orders", opt=READ | LARGE)
@live
async def list_orders(
    request: AnyRequest, agents: NamedDependency[Agents], orders: NamedDependency[StoredOrders]
) -> Response[bytes]:
    """List the orders of all agents or of one, newest first."""
    state = read_query(request, OrderList)
    agent_id = await agents.resolve(state.agent) if state.agent else None
    order_filter = msgspec.structs.replace(state.filter, agent_id=agent_id)
    page = await orders.list(order_filter, state.requested, claims_of(request).subject)
    names = await orders.name_recipients(recipients_of(page.items))
    return render(request, "orders.html", state=state, page=page, names=names)


@get("/console/orders/{order_id:uuid}", opt=READ | LARGE)
@live
async def show_order(
    request: AnyRequest, order_id: FromPath[UUID], orders: NamedDependency[StoredOrders]
) -> Response[bytes]:
    """Show an order, its times and its result."""
    order = await orders.get(order_id, claims_of(request).subject)
    return render(request, "order.html", order=order, names=await orders.name_recipients(recipients_of([order])))


@post("/console/orders/{order_id:uuid}/cancel", opt=OPERATE, status_code=200)
async def cancel_order(
    request: AnyRequest, order_id: FromPath[UUID], orders: NamedDependency[StoredOrders]
) -> Response[bytes]:
    """Cancel an open order."""
    await orders.cancel(order_id, claims_of(request).subject)
    return notify(request, "The order is cancelled.")


ROUTES = [list_orders, show_order, cancel_order]
