"""The long poll and the reports of agents and services."""

import asyncio
from typing import Annotated
from uuid import UUID

import msgspec
from litestar import get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParameter

from comms_api.errors import Forbidden
from comms_api.http.authentication import agent_of, claims_of
from comms_api.http.bodies import Bodies
from comms_api.http.request import AnyRequest, close_afterwards, is_head, remote_address, until_disconnect
from comms_api.http.roles import SERVE
from comms_api.orders.dispatcher import ELSEWHERE, Dispatcher
from comms_api.orders.reports import Reports, read_reports
from comms_api.orders.targets import service_id
from comms_api.protocol import Order, Orders, ReportOutcomes

Wait = Annotated[float | None, QueryParameter(ge=0, description="seconds; the server's setting caps it")]


class OrderDesk(msgspec.Struct, frozen=True):
    """What the routes of agents work with; one dependency, since Litestar starts a task for each of several."""

    bodies: Bodies
    dispatcher: Dispatcher
    reports: Reports
    poll_wait_seconds: float


@get(["/commands", "/poll_commands"])
async def poll_commands(request: AnyRequest, desk: NamedDependency[OrderDesk], wait: Wait = None) -> Orders:
    """Hold the request until the agent has orders, and answer with them; with none in time, an empty list."""
    return await _poll(request, desk, agent_of(request), wait)


async def _poll(request: AnyRequest, desk: OrderDesk, recipient: UUID, wait: float | None) -> Orders:
    if is_head(request.scope):
        return Orders([])  # the client could not read them
    longest = desk.poll_wait_seconds
    wait_seconds = longest if wait is None else min(wait, longest)
    with desk.dispatcher.hold(recipient, claims_of(request), wait_seconds, remote_address(request)) as answer:
        watch = asyncio.ensure_future(until_disconnect(request))
        watch.add_done_callback(lambda _: answer.cancel())
        try:
            orders = await answer
            if orders is ELSEWHERE:
                close_afterwards(request.scope)
            return Orders(orders)
        except asyncio.CancelledError:
            return _answer_to_nobody(watch)
        finally:
            watch.cancel()


def _answer_to_nobody(watch: "asyncio.Future[None]") -> Orders:
    if watch.done() and not watch.cancelled():
        return Orders(list[Order]())
    raise asyncio.CancelledError


@post("/commands/results", status_code=200)
async def report_results(request: AnyRequest, desk: NamedDependency[OrderDesk]) -> ReportOutcomes:
    """Report how orders ended; one outcome per report, in order, even for an unreadable report (400).

    A report that is repeated changes nothing.
    """
    return await _report(request, desk, agent_of(request))


async def _report(request: AnyRequest, desk: OrderDesk, recipient: UUID) -> ReportOutcomes:
    async with desk.bodies.receive(request) as body:
        reports, refused = read_reports(body)
        outcomes = await desk.reports.report(recipient, list(reports.values()))
    told = [msgspec.structs.replace(outcome, index=index) for index, outcome in zip(reports, outcomes, strict=True)]
    return ReportOutcomes(sorted(told + refused, key=lambda outcome: outcome.index))


@get("/services/{service:str}/commands", opt=SERVE)
async def poll_service_commands(
    request: AnyRequest, service: FromPath[str], desk: NamedDependency[OrderDesk], wait: Wait = None
) -> Orders:
    """Hold the request until the service has orders; the service is the user who asks. As `GET /commands` of agents."""
    return await _poll(request, desk, service_id(_own(request, service)), wait)


@post("/services/{service:str}/commands/results", status_code=200, opt=SERVE)
async def report_service_results(
    request: AnyRequest, service: FromPath[str], desk: NamedDependency[OrderDesk]
) -> ReportOutcomes:
    """Report how a service's orders ended; as agents do."""
    return await _report(request, desk, service_id(_own(request, service)))


def _own(request: AnyRequest, service: str) -> str:
    if claims_of(request).subject != service:
        raise Forbidden(f"Only the service {service!r} itself may do this.")
    return service


AGENT_ROUTES = [poll_commands, report_results]
MANAGEMENT_ROUTES = [poll_service_commands, report_service_results]
