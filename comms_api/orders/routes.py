"""The long poll and the reports of agents and services; the management API's orders."""

import asyncio
from typing import Annotated, TypeAlias
from uuid import UUID

import msgspec
from litestar import get, post
from litestar.di import NamedDependency, Provide
from litestar.params import FromPath, FromQuery, QueryParameter

from comms_api.agents.dependencies import FilteredAgent, FilteredTargets
from comms_api.database.pages import Page
from comms_api.errors import Forbidden
from comms_api.fairness.slices import Slices
from comms_api.http.authentication import HELD, agent_of, claims_of, service_of
from comms_api.http.bodies import Bodies
from comms_api.http.description.operations import reads
from comms_api.http.pages import LARGE, RequestedPage
from comms_api.http.request import AnyRequest, at_end, close_afterwards, is_head, remote_address, until_disconnect
from comms_api.http.roles import FOLLOW, OPERATE, SERVE
from comms_api.orders.dispatcher import REDIRECT, Dispatcher
from comms_api.orders.model import OrderFilter, OutcomeFilter, StoredOrder
from comms_api.orders.reports import Reports, read_reports
from comms_api.orders.service import StoredOrders
from comms_api.orders.spans import begin_answer
from comms_api.orders.targets import service_id
from comms_api.protocol import OrderResults, Orders, OrderStatus, ReportOutcomes
from comms_api.spans import RecordSpan

Wait = Annotated[float | None, QueryParameter(ge=0, description="seconds; the server's setting caps it")]


class OrderServices(msgspec.Struct, frozen=True):
    """The dependencies of the routes of agents; one struct, since Litestar starts a task for each of several."""

    bodies: Bodies
    slices: Slices
    dispatcher: Dispatcher
    reports: Reports
    poll_wait_seconds: float
    record_span: RecordSpan | None = None


@get(["/commands", "/poll_commands"], opt=HELD)
async def poll_commands(
    request: AnyRequest, order_services: NamedDependency[OrderServices], wait: Wait = None
) -> Orders:
    """Hold the request until the agent has orders, and answer with them; after the wait, with an empty list."""
    return await _poll(request, order_services, agent_of(request), wait)


async def _poll(request: AnyRequest, services: OrderServices, recipient: UUID, wait: float | None) -> Orders:
    if is_head(request.scope):
        return Orders([])  # the client could not read them
    longest_seconds = services.poll_wait_seconds
    wait_seconds = longest_seconds if wait is None else min(wait, longest_seconds)
    with services.dispatcher.hold(recipient, claims_of(request), wait_seconds, remote_address(request)) as answer:
        watch = asyncio.ensure_future(until_disconnect(request))
        watch.add_done_callback(lambda _: answer.cancel())
        try:
            claimed = await answer
            if claimed is REDIRECT:
                close_afterwards(request.scope)
            if claimed and services.record_span is not None:
                at_end(request.scope, begin_answer(services.record_span, claimed))
            return Orders([claim.order for claim in claimed])
        except asyncio.CancelledError:
            if watch.done() and not watch.cancelled():
                return Orders([])  # the client has disconnected
            raise
        finally:
            watch.cancel()


@post("/commands/results", status_code=200, opt=reads(OrderResults))
async def report_results(request: AnyRequest, order_services: NamedDependency[OrderServices]) -> ReportOutcomes:
    """Report how orders ended; one outcome per report, in order, even for an unreadable report (400).

    A report that is repeated changes nothing.
    """
    return await _report(request, order_services, agent_of(request))


async def _report(request: AnyRequest, services: OrderServices, recipient: UUID) -> ReportOutcomes:
    async with services.bodies.receive(request) as body:
        reports, refused = await services.slices.run_metered(read_reports(body))
        outcomes = await services.reports.report(recipient, list(reports.values()))
    # The service numbers the readable reports only.
    recorded = [msgspec.structs.replace(outcome, index=index) for index, outcome in zip(reports, outcomes, strict=True)]
    return ReportOutcomes(sorted(recorded + refused, key=lambda outcome: outcome.index))


@get("/services/{service:str}/commands", opt=SERVE | HELD)
async def poll_service_commands(
    request: AnyRequest, service: FromPath[str], order_services: NamedDependency[OrderServices], wait: Wait = None
) -> Orders:
    """Hold the request until the service has orders, like an agent's `GET /commands`; the caller is the service."""
    return await _poll(request, order_services, _service_of(request, service), wait)


@post("/services/{service:str}/commands/results", status_code=200, opt=SERVE | reads(OrderResults))
async def report_service_results(
    request: AnyRequest, service: FromPath[str], order_services: NamedDependency[OrderServices]
) -> ReportOutcomes:
    """Report the results of a service's orders, like an agent's `POST /commands/results`."""
    return await _report(request, order_services, _service_of(request, service))


def _service_of(request: AnyRequest, service: str) -> UUID:
    if claims_of(request).subject != service:
        raise Forbidden(f"Only the service {service!r} itself may do this.")
    return service_id(service)


LIMIT_MAXIMUM = 200
"""The maximum number of orders on a page: an order may have a result of 256 KiB."""

CommandFilter: TypeAlias = NamedDependency[OrderFilter]
"""Provides `command_filter`: the filters of a query that concern commands."""


async def find_command_filter(
    request: AnyRequest,
    filtered_targets: FilteredTargets,
    source: FromQuery[str | None] = None,
    user: FromQuery[str | None] = None,
    action: FromQuery[str | None] = None,
) -> OrderFilter:
    """Return the common filters of commands and orders; a service sees only its own submissions."""
    return OrderFilter(source=source, user=user, action=action, targets=filtered_targets, service=service_of(request))


COMMAND_FILTERS = {"command_filter": Provide(find_command_filter)}
"""The name under which routes receive this dependency."""


@get("/orders", opt=FOLLOW | LARGE)
async def list_orders(  # noqa: PLR0913 - one parameter per filter
    request: AnyRequest,
    orders: NamedDependency[StoredOrders],
    command_filter: CommandFilter,
    filtered_agent: FilteredAgent,
    requested_page: RequestedPage,
    request_id: FromQuery[UUID | None] = None,
    status: FromQuery[OrderStatus | None] = None,
    outcome: FromQuery[OutcomeFilter | None] = None,
    code: FromQuery[int | None] = None,
) -> Page[StoredOrder]:
    """List orders with their results, filtered by every given parameter.

    Archived orders are listed only with `agent_id`. A service gets the orders of the commands that it has submitted. A
    page may have few orders, or none, although more follow: ask again with `next` until it is null.
    """
    order_filter = msgspec.structs.replace(
        command_filter, request_id=request_id, agent_id=filtered_agent, status=status, outcome=outcome, code=code
    )
    bounded = msgspec.structs.replace(requested_page, limit=min(requested_page.limit, LIMIT_MAXIMUM))
    return await orders.list(order_filter, bounded, claims_of(request).subject)


@get("/orders/{order_id:uuid}", opt=FOLLOW)
async def get_order(
    request: AnyRequest, order_id: FromPath[UUID], orders: NamedDependency[StoredOrders]
) -> StoredOrder:
    """Show one order and its result; a service may see the orders of the commands that it has submitted."""
    return await orders.get(order_id, claims_of(request).subject, service_of(request))


@post("/orders/{order_id:uuid}/cancel", status_code=200, opt=OPERATE)
async def cancel_order(
    request: AnyRequest, order_id: FromPath[UUID], orders: NamedDependency[StoredOrders]
) -> StoredOrder:
    """Cancel an order; 409 when it has ended. Later reports of it change nothing."""
    return await orders.cancel(order_id, claims_of(request).subject)


AGENT_ROUTES = [poll_commands, report_results]
MANAGEMENT_ROUTES = [list_orders, get_order, cancel_order, poll_service_commands, report_service_results]
