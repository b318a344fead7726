"""The agent API's long poll and results; the management API's commands and orders."""

import asyncio
from typing import Annotated
from uuid import UUID

import msgspec
from litestar import get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, QueryParameter

from comms_api.commands.dispatcher import Dispatcher
from comms_api.commands.idempotency import HEADER, read_key
from comms_api.commands.model import (
    Cancelled,
    Command,
    CommandProgress,
    DocumentId,
    OrderFilter,
    PluginAnswer,
    StoredOrder,
    SubmittedCommands,
)
from comms_api.commands.reports import Reports
from comms_api.commands.requests import read_commands
from comms_api.commands.service import Commands
from comms_api.http.authentication import agent_of, claims_of
from comms_api.http.bodies import Bodies, read_json
from comms_api.http.pages import Limit, Page
from comms_api.http.request import AnyRequest
from comms_api.protocol import Order, OrderResults, Orders, OrderStatus, ReportOutcomes
from comms_api.settings import Settings

_RESULTS = msgspec.json.Decoder(OrderResults)

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
    longest = desk.poll_wait_seconds
    wait_seconds = longest if wait is None else min(wait, longest)
    poll = asyncio.ensure_future(desk.dispatcher.poll(agent_of(request), claims_of(request), wait_seconds))
    watch = asyncio.ensure_future(_until_disconnect(request))
    watch.add_done_callback(lambda _: poll.cancel())
    try:
        return Orders(await poll)
    except asyncio.CancelledError:
        return _answer_to_nobody(watch)
    finally:
        watch.cancel()


async def _until_disconnect(request: AnyRequest) -> None:
    # A server frees a vanished client's request only if somebody awaits its next message.
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _answer_to_nobody(watch: "asyncio.Future[None]") -> Orders:
    if watch.done() and not watch.cancelled():
        return Orders(list[Order]())
    raise asyncio.CancelledError


@post("/commands/results", status_code=200)
async def report_results(request: AnyRequest, desk: NamedDependency[OrderDesk]) -> ReportOutcomes:
    """Report how orders ended; one outcome per report, in order. A report that is repeated changes nothing."""
    async with desk.bodies.receive(request) as body:
        batch = read_json(body, _RESULTS, '{"results": [{"order_id", "result": {"code"}}…]}')
        return ReportOutcomes(list(await desk.reports.report(agent_of(request), batch.results)))


@post("/commands", status_code=201)
async def submit_commands(
    request: AnyRequest,
    commands: NamedDependency[Commands],
    bodies: NamedDependency[Bodies],
    settings: NamedDependency[Settings],
) -> SubmittedCommands:
    """Submit one command, an array, or `{"commands": […]}`: all of them, or none if one is at fault.

    Repeated within a day under the same Idempotency-Key, it is answered as the first time and submits nothing.
    """
    async with bodies.receive(request) as body:
        submitted = read_commands(body, settings.order_timeout_maximum_seconds)
        user = claims_of(request).subject
        key = read_key(user, request.headers.get(HEADER), body)
    return SubmittedCommands(await commands.submit(user, submitted, key))


@post("/_plugins/_command_manager/commands", status_code=200)
async def submit_plugin_commands(
    request: AnyRequest,
    commands: NamedDependency[Commands],
    bodies: NamedDependency[Bodies],
    settings: NamedDependency[Settings],
) -> PluginAnswer:
    """Submit commands as to the command manager plugin; the answer names every order, as the plugin's does."""
    async with bodies.receive(request) as body:
        wanted = read_commands(body, settings.order_timeout_maximum_seconds)
        user = claims_of(request).subject
        key = read_key(user, request.headers.get(HEADER), body)
    submitted = await commands.submit(user, wanted, key)
    documents = [DocumentId(order_id) for order_id in await commands.list_order_ids(submitted)]
    return PluginAnswer(orders=documents, documents=documents)


@get("/commands")
async def list_commands(
    commands: NamedDependency[Commands], after: FromQuery[UUID | None] = None, limit: Limit = 100
) -> Page[Command]:
    """List commands, oldest first."""
    return await commands.list(after, limit)


@get("/commands/{request_id:uuid}")
async def get_command(request_id: FromPath[UUID], commands: NamedDependency[Commands]) -> CommandProgress:
    """Show a command and how many of its orders are in each status."""
    return await commands.get(request_id)


@post("/commands/{request_id:uuid}/cancel", status_code=200)
async def cancel_command(
    request: AnyRequest, request_id: FromPath[UUID], commands: NamedDependency[Commands]
) -> Cancelled:
    """Cancel every order of a command that has not ended; repeating it changes nothing."""
    return Cancelled(await commands.cancel(request_id, claims_of(request).subject))


@post("/orders/{order_id:uuid}/cancel", status_code=200)
async def cancel_order(
    request: AnyRequest, order_id: FromPath[UUID], commands: NamedDependency[Commands]
) -> StoredOrder:
    """Cancel an order; 409 when it has ended. What its agent reports of it later changes nothing."""
    return await commands.cancel_order(order_id, claims_of(request).subject)


@get("/orders")
async def list_orders(  # noqa: PLR0913 - one parameter per filter
    commands: NamedDependency[Commands],
    request_id: FromQuery[UUID | None] = None,
    agent_id: FromQuery[UUID | None] = None,
    status: FromQuery[OrderStatus | None] = None,
    after: FromQuery[UUID | None] = None,
    limit: Limit = 100,
) -> Page[StoredOrder]:
    """List orders with their results, oldest first, all or those of a command, an agent, in a status."""
    return await commands.list_orders(OrderFilter(request_id, agent_id, status), after, limit)


@get("/orders/{order_id:uuid}")
async def get_order(order_id: FromPath[UUID], commands: NamedDependency[Commands]) -> StoredOrder:
    """Show one order and its result."""
    return await commands.get_order(order_id)


AGENT_ROUTES = [poll_commands, report_results]
MANAGEMENT_ROUTES = [
    submit_commands,
    submit_plugin_commands,
    list_commands,
    get_command,
    cancel_command,
    cancel_order,
    list_orders,
    get_order,
]
