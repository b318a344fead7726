"""The agent API's long poll and results; the management API's commands and orders."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from datetime import datetime
from typing import Annotated
from uuid import UUID

import msgspec
from litestar import Response, delete, get, post, put
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec
from litestar.params import FromPath, FromQuery, QueryParameter
from litestar.response import Stream

from comms_api.agents.dependencies import FilteredAgent, FilteredTargets
from comms_api.commands.actions import NewAction, RegisteredAction
from comms_api.commands.dispatcher import ELSEWHERE, Dispatcher
from comms_api.commands.export import MEDIA_TYPES, ExportForm, export_orders
from comms_api.commands.idempotency import HEADER, IdempotencyKey, read_key
from comms_api.commands.model import (
    Cancelled,
    Command,
    CommandProgress,
    Counts,
    DocumentId,
    Held,
    NewCommand,
    OrderFilter,
    PluginAnswer,
    RehearsedCommands,
    Retry,
    StoredOrder,
    SubmittedCommands,
)
from comms_api.commands.outcomes import read_reports
from comms_api.commands.reports import Reports
from comms_api.commands.requests import Caller, read_commands
from comms_api.commands.service import Commands
from comms_api.commands.submission import Submissions
from comms_api.commands.targets import service_id
from comms_api.commands.watching import Watch
from comms_api.errors import Forbidden
from comms_api.http.authentication import BASIC, agent_of, claims_of
from comms_api.http.bodies import JSON_BYTES_MAXIMUM, Bodies, read_json
from comms_api.http.pages import EXPORT, LARGE, Limit, Page
from comms_api.http.request import AnyRequest, at_end, close_afterwards, is_head, remote_address
from comms_api.http.roles import ADMINISTER, OPERATE, READ, SERVE, SUBMIT
from comms_api.protocol import Order, Orders, OrderStatus, ReportOutcomes

WAIT_SECONDS_MAXIMUM = 600

_ACTION = msgspec.json.Decoder(NewAction)
_RETRY = msgspec.json.Decoder(Retry)

Wait = Annotated[float | None, QueryParameter(ge=0, description="seconds; the server's setting caps it")]
WaitSeconds = Annotated[float, QueryParameter(ge=0, le=WAIT_SECONDS_MAXIMUM, description="seconds")]


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
        watch = asyncio.ensure_future(_until_disconnect(request))
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


async def _unless_gone(request: AnyRequest, wait: Coroutine[None, None, None]) -> None:
    """Wait as long as the client is there."""
    waiting, watch = asyncio.ensure_future(wait), asyncio.ensure_future(_until_disconnect(request))
    try:
        await asyncio.wait([waiting, watch], return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
        watch.cancel()
        await asyncio.gather(waiting, watch, return_exceptions=True)
    if not waiting.cancelled():
        waiting.result()


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


class CommandDesk(msgspec.Struct, frozen=True):
    """What the routes that submit commands work with."""

    bodies: Bodies
    submissions: Submissions
    commands: Commands
    timeout_maximum_seconds: float
    now: Callable[[], float]

    def read(self, request: AnyRequest, body: bytes) -> tuple[str, list[NewCommand], IdempotencyKey | None]:
        """Return who submits, what, and under which key."""
        claims = claims_of(request)
        caller = Caller(claims.subject, claims.role == "service", self.now())
        wanted = read_commands(body, caller, self.timeout_maximum_seconds)
        return caller.name, wanted, read_key(caller.name, request.headers.get(HEADER), body)


@post("/commands", status_code=201, opt=SUBMIT, responses={200: ResponseSpec(RehearsedCommands)})
async def submit_commands(
    request: AnyRequest,
    command_desk: NamedDependency[CommandDesk],
    dry_run: FromQuery[bool] = False,  # noqa: FBT002
) -> Response[SubmittedCommands | RehearsedCommands]:
    """Submit one command, an array, or `{"commands": […]}`: all of them, or none if one is at fault.

    Repeated within a day under the same Idempotency-Key, it is answered as the first time and submits nothing. With
    `dry_run=true` nothing is submitted, and the answer (200) says who would get each command.
    """
    async with command_desk.bodies.receive(request, JSON_BYTES_MAXIMUM) as body:
        user, wanted, key = command_desk.read(request, body)
    if dry_run:
        rehearsed = await command_desk.submissions.rehearse(user, wanted)
        return Response(RehearsedCommands(rehearsed), status_code=200)
    return Response(SubmittedCommands(await command_desk.submissions.submit(user, wanted, key)), status_code=201)


@post("/_plugins/_command_manager/commands", status_code=200, opt=SUBMIT | BASIC)
async def submit_plugin_commands(request: AnyRequest, command_desk: NamedDependency[CommandDesk]) -> PluginAnswer:
    """Submit commands in the format of the command manager plugin; like the plugin's, the answer lists every order.

    HTTP Basic is accepted instead of a token.
    """
    async with command_desk.bodies.receive(request, JSON_BYTES_MAXIMUM) as body:
        user, wanted, key = command_desk.read(request, body)
    submitted = await command_desk.submissions.submit(user, wanted, key)
    documents = [DocumentId(order_id) for order_id in await command_desk.submissions.list_order_ids(submitted)]
    return PluginAnswer(orders=documents, documents=documents)


# -- watching


@get("/commands", opt=READ | LARGE)
async def list_commands(  # noqa: PLR0913 - one parameter per filter
    commands: NamedDependency[Commands],
    filtered_targets: FilteredTargets,
    source: FromQuery[str | None] = None,
    user: FromQuery[str | None] = None,
    action: FromQuery[str | None] = None,
    since: FromQuery[datetime | None] = None,
    until: FromQuery[datetime | None] = None,
    after: FromQuery[UUID | None] = None,
    limit: Limit = 100,
) -> Page[Command]:
    """List commands, oldest first: all, or those that match every filter."""
    wanted = OrderFilter(source=source, user=user, action=action, targets=filtered_targets, since=since, until=until)
    return await commands.list(wanted, after, limit)


@get("/commands/{request_id:uuid}", opt=READ)
async def get_command(request_id: FromPath[UUID], commands: NamedDependency[Commands]) -> CommandProgress:
    """Show a command, how many of its orders are in each status, and the latest failures."""
    return await commands.get(request_id)


@get("/commands/{request_id:uuid}/wait", opt=READ)
async def wait_for_command(
    request: AnyRequest,
    request_id: FromPath[UUID],
    commands: NamedDependency[Commands],
    watch: NamedDependency[Watch],
    timeout: WaitSeconds = 60,  # noqa: ASYNC109 - it is the client's
) -> CommandProgress:
    """Answer when every order of a command has ended, or after `timeout` seconds; `is_done` says which."""
    at_end(request.scope, watch.enter(claims_of(request).subject))
    progress = await commands.get(request_id)
    if not progress.is_done:
        await _unless_gone(request, watch.wait(request_id, timeout))
        progress = await commands.get(request_id)
    return progress


@get("/commands/{request_id:uuid}/events", opt=READ, media_type="text/event-stream")
async def stream_progress(
    request: AnyRequest,
    request_id: FromPath[UUID],
    commands: NamedDependency[Commands],
    watch: NamedDependency[Watch],
) -> Stream:
    """Send a server-sent event with the number of orders by status at each change, and end when all have ended."""
    at_end(request.scope, watch.enter(claims_of(request).subject))
    await commands.get(request_id)
    return Stream(_events(watch.changes(request_id)), media_type="text/event-stream")


async def _events(changes: AsyncIterator[Counts]) -> AsyncIterator[bytes]:
    async for counts in changes:
        name = b"done" if counts.is_done else b"progress"
        yield b"event: %b\ndata: %b\n\n" % (name, msgspec.json.encode(counts))


@get("/commands/{request_id:uuid}/results", opt=READ | EXPORT)
async def export_results(
    request: AnyRequest,
    request_id: FromPath[UUID],
    commands: NamedDependency[Commands],
    format: FromQuery[ExportForm] = "ndjson",  # noqa: A002
) -> Stream:
    """Stream every order of a command with its result, the archived ones too, as lines of JSON or as CSV."""
    await commands.get(request_id)
    content = export_orders(commands.stream_orders(request_id, claims_of(request).subject), format)
    headers = {"Content-Disposition": f'attachment; filename="{request_id}.{format}"'}
    return Stream(content, media_type=MEDIA_TYPES[format], headers=headers)


# -- control


@post("/commands/{request_id:uuid}/cancel", status_code=200, opt=OPERATE)
async def cancel_command(
    request: AnyRequest, request_id: FromPath[UUID], commands: NamedDependency[Commands]
) -> Cancelled:
    """Cancel every order of a command that has not ended; agents that hold one are told at their next poll.

    Repeating it changes nothing.
    """
    return await commands.cancel(request_id, claims_of(request).subject)


@post("/commands/{request_id:uuid}/pause", status_code=200, opt=OPERATE)
async def pause_command(request: AnyRequest, request_id: FromPath[UUID], commands: NamedDependency[Commands]) -> Held:
    """Hold back the orders that no agent was offered; 409 when the command is held already or has ended."""
    return await commands.pause(request_id, claims_of(request).subject)


@post("/commands/{request_id:uuid}/resume", status_code=200, opt=OPERATE)
async def resume_command(request: AnyRequest, request_id: FromPath[UUID], commands: NamedDependency[Commands]) -> Held:
    """Let a paused or stopped command go on; 409 when it is neither."""
    return await commands.resume(request_id, claims_of(request).subject)


@post("/commands/{request_id:uuid}/retry", status_code=201, opt=OPERATE)
async def retry_command(
    request: AnyRequest, request_id: FromPath[UUID], command_desk: NamedDependency[CommandDesk]
) -> SubmittedCommands:
    """Submit a command again to those whose orders failed (or, as `statuses`, were cancelled), under a new id."""
    async with command_desk.bodies.receive(request, JSON_BYTES_MAXIMUM) as body:
        wanted = read_json(body or b"{}", _RETRY, '{"statuses"?, "timeout"?}')
        user = claims_of(request).subject
        key = read_key(user, request.headers.get(HEADER), request_id.bytes + body)
    return SubmittedCommands(await command_desk.submissions.retry(request_id, user, wanted, key))


@post("/orders/{order_id:uuid}/cancel", status_code=200, opt=OPERATE)
async def cancel_order(
    request: AnyRequest, order_id: FromPath[UUID], commands: NamedDependency[Commands]
) -> StoredOrder:
    """Cancel an order; 409 when it has ended. What its agent reports of it later changes nothing."""
    return await commands.cancel_order(order_id, claims_of(request).subject)


# -- orders


# Each may hold a result of 256 KiB, so a page has fewer of them than of other things.
OrderLimit = Annotated[int, QueryParameter(ge=1, le=200, description="the most orders of one page")]


@get("/orders", opt=READ | LARGE)
async def list_orders(  # noqa: PLR0913 - one parameter per filter
    commands: NamedDependency[Commands],
    filtered_targets: FilteredTargets,
    filtered_agent: FilteredAgent,
    request_id: FromQuery[UUID | None] = None,
    status: FromQuery[OrderStatus | None] = None,
    source: FromQuery[str | None] = None,
    user: FromQuery[str | None] = None,
    action: FromQuery[str | None] = None,
    since: FromQuery[datetime | None] = None,
    until: FromQuery[datetime | None] = None,
    after: FromQuery[UUID | None] = None,
    limit: OrderLimit = 100,
) -> Page[StoredOrder]:
    """List orders with their results, oldest first: all that are not archived, or those that match every filter."""
    wanted = OrderFilter(request_id, filtered_agent, status, source, user, action, filtered_targets, since, until)
    return await commands.list_orders(wanted, after, limit)


@get("/orders/{order_id:uuid}", opt=READ)
async def get_order(request: AnyRequest, order_id: FromPath[UUID], commands: NamedDependency[Commands]) -> StoredOrder:
    """Show one order and its result."""
    return await commands.get_order(order_id, claims_of(request).subject)


# -- services


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


# -- actions


@get("/actions", opt=READ)
async def list_actions(commands: NamedDependency[Commands]) -> Sequence[RegisteredAction]:
    """List the actions whose args are checked, built in or registered, with the JSON Schema of their args."""
    return await commands.list_actions()


@put("/actions/{name:str}", opt=ADMINISTER)
async def register_action(
    request: AnyRequest, name: FromPath[str], command_desk: NamedDependency[CommandDesk]
) -> NewAction:
    """Register an action, or change it: the JSON Schema of its args, and whether agents or services get it."""
    async with command_desk.bodies.receive(request, JSON_BYTES_MAXIMUM) as body:
        action = read_json(body, _ACTION, '{"schema", "recipients"?}')
    await command_desk.commands.register_action(name, action, claims_of(request).subject)
    return action


@delete("/actions/{name:str}", opt=ADMINISTER)
async def forget_action(name: FromPath[str], commands: NamedDependency[Commands]) -> None:
    """Forget a registered action."""
    await commands.forget_action(name)


SUBMISSION_ROUTES = [submit_commands, submit_plugin_commands]
AGENT_ROUTES = [poll_commands, report_results]
MANAGEMENT_ROUTES = [
    submit_commands,
    submit_plugin_commands,
    list_commands,
    get_command,
    wait_for_command,
    stream_progress,
    export_results,
    cancel_command,
    pause_command,
    resume_command,
    retry_command,
    cancel_order,
    list_orders,
    get_order,
    poll_service_commands,
    report_service_results,
    list_actions,
    register_action,
    forget_action,
]
