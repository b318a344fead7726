"""The management API's commands."""

from collections.abc import Callable
from typing import Annotated
from uuid import UUID

import msgspec
from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec
from litestar.params import FromPath, FromQuery, QueryParameter
from litestar.response import Stream

from comms_api.commands.model import (
    Cancelled,
    Command,
    CommandProgress,
    DocumentId,
    Held,
    NewCommand,
    NewCommands,
    PluginAnswer,
    RehearsedCommands,
    Retry,
    SubmittedCommands,
)
from comms_api.commands.service import Commands
from comms_api.commands.submission.idempotency import HEADER, IdempotencyKey, read_key
from comms_api.commands.submission.requests import Caller, read_commands
from comms_api.commands.submission.submissions import Submissions
from comms_api.commands.watching import Watch
from comms_api.database.pages import Page
from comms_api.http.authentication import BASIC, claims_of, service_of
from comms_api.http.bodies import JSON_BYTES_MAXIMUM, Bodies
from comms_api.http.description.operations import reads
from comms_api.http.pages import EXPORT, LARGE, RequestedPage
from comms_api.http.request import AnyRequest, at_end, while_connected
from comms_api.http.roles import FOLLOW, OPERATE, SUBMIT
from comms_api.orders.export import MEDIA_TYPES, ExportForm, export_orders
from comms_api.orders.routes import CommandFilter
from comms_api.orders.service import StoredOrders
from comms_api.spans import span
from comms_api.text.faults import read_json

WAIT_SECONDS_MAXIMUM = 600

_COMMANDS = reads(NewCommand, list[NewCommand], NewCommands)
_RETRY = msgspec.json.Decoder(Retry)

WaitSeconds = Annotated[float, QueryParameter(ge=0, le=WAIT_SECONDS_MAXIMUM, description="seconds")]


class SubmissionServices(msgspec.Struct, frozen=True):
    """The dependencies of routes that submit commands; one struct, since Litestar starts a task for each of several."""

    bodies: Bodies
    submissions: Submissions
    timeout_maximum_seconds: float
    now: Callable[[], float]

    def read(self, request: AnyRequest, body: bytes) -> tuple[str, list[NewCommand], IdempotencyKey | None]:
        """Return the user, the commands, and the idempotency key of a submission."""
        claims = claims_of(request)
        caller = Caller(claims.subject, claims.role == "service", self.now())
        submitted = read_commands(body, caller, self.timeout_maximum_seconds)
        return caller.name, submitted, read_key(caller.name, request.headers.get(HEADER), body)


@post("/commands", status_code=201, opt=SUBMIT | _COMMANDS, responses={200: ResponseSpec(RehearsedCommands)})
async def submit_commands(
    request: AnyRequest,
    submission_services: NamedDependency[SubmissionServices],
    dry_run: FromQuery[bool] = False,  # noqa: FBT002
) -> Response[SubmittedCommands | RehearsedCommands]:
    """Submit one command, an array, or `{"commands": […]}`: all of them, or none if one is at fault.

    Repeated within a day under the same Idempotency-Key, it is answered as the first time and submits nothing. With
    `dry_run=true` nothing is submitted, and the answer (200) lists the recipients of each command.
    """
    async with submission_services.bodies.receive(request, JSON_BYTES_MAXIMUM) as body:
        user, commands, key = submission_services.read(request, body)
    submissions = submission_services.submissions
    if dry_run:
        return Response(RehearsedCommands(await submissions.rehearse(user, commands)), status_code=200)
    return Response(
        SubmittedCommands(await submissions.submit(user, commands, key, service_of(request))), status_code=201
    )


@post("/_plugins/_command_manager/commands", status_code=200, opt=SUBMIT | BASIC | _COMMANDS)
async def submit_plugin_commands(
    request: AnyRequest, submission_services: NamedDependency[SubmissionServices]
) -> PluginAnswer:
    """Submit commands in the format of the command manager plugin; like the plugin's, the answer lists every order.

    HTTP Basic is accepted instead of a token.
    """
    async with submission_services.bodies.receive(request, JSON_BYTES_MAXIMUM) as body:
        user, commands, key = submission_services.read(request, body)
    submissions = submission_services.submissions
    submitted = await submissions.submit(user, commands, key, service_of(request))
    documents = [DocumentId(order_id) for order_id in await submissions.list_order_ids(submitted)]
    return PluginAnswer(orders=documents, documents=documents)


@get("/commands", opt=FOLLOW | LARGE)
async def list_commands(
    commands: NamedDependency[Commands],
    command_filter: CommandFilter,
    requested_page: RequestedPage,
    continuous: FromQuery[bool] = False,  # noqa: FBT002
) -> Page[Command]:
    """List commands, filtered by every given parameter. A service gets only its commands.

    A page may have few commands, or none, although more follow: ask again with `next` until it is null.
    """
    return await commands.list(msgspec.structs.replace(command_filter, continuous=continuous), requested_page)


@get("/commands/{request_id:uuid}", opt=FOLLOW)
async def get_command(
    request: AnyRequest, request_id: FromPath[UUID], commands: NamedDependency[Commands]
) -> CommandProgress:
    """Show a command, how many of its orders are in each status, and the latest failures.

    A service may see the commands that it has submitted, here and in the routes below.
    """
    return await commands.get(request_id, service_of(request))


@get("/commands/{request_id:uuid}/wait", opt=FOLLOW)
async def wait_for_command(
    request: AnyRequest,
    request_id: FromPath[UUID],
    commands: NamedDependency[Commands],
    watch: NamedDependency[Watch],
    timeout: WaitSeconds = 60,  # noqa: ASYNC109 - it is the client's
) -> CommandProgress:
    """Answer when every order of a command has ended, or after `timeout` seconds; `is_done` says which."""
    at_end(request.scope, watch.watchers.enter(claims_of(request).subject))
    progress = await commands.get(request_id, service_of(request))
    if not progress.is_done:
        await while_connected(request, watch.wait(request_id, timeout))
        progress = await commands.get(request_id, service_of(request))
    return progress


@get("/commands/{request_id:uuid}/events", opt=FOLLOW, media_type="text/event-stream")
async def stream_progress(
    request: AnyRequest,
    request_id: FromPath[UUID],
    commands: NamedDependency[Commands],
    watch: NamedDependency[Watch],
) -> Stream:
    """Send a server-sent event with the number of orders by status at each change, and end when all have ended."""
    at_end(request.scope, watch.watchers.enter(claims_of(request).subject))
    await commands.get(request_id, service_of(request))
    events = (
        b"event: %b\ndata: %b\n\n" % (b"done" if counts.is_done else b"progress", msgspec.json.encode(counts))
        async for counts in watch.changes(request_id)
    )
    return Stream(events, media_type="text/event-stream")


@get("/commands/{request_id:uuid}/results", opt=FOLLOW | EXPORT, media_type=MEDIA_TYPES["ndjson"])
async def export_results(
    request: AnyRequest,
    request_id: FromPath[UUID],
    commands: NamedDependency[Commands],
    orders: NamedDependency[StoredOrders],
    format: FromQuery[ExportForm] = "ndjson",  # noqa: A002
) -> Stream:
    """Stream every order of a command with its result, including archived orders, as lines of JSON or as CSV."""
    await commands.get(request_id, service_of(request))
    content = export_orders(orders.stream(request_id, claims_of(request).subject), format)
    headers = {"Content-Disposition": f'attachment; filename="{request_id}.{format}"'}
    return Stream(content, media_type=MEDIA_TYPES[format], headers=headers)


@post("/commands/{request_id:uuid}/cancel", status_code=200, opt=OPERATE)
async def cancel_command(
    request: AnyRequest, request_id: FromPath[UUID], commands: NamedDependency[Commands]
) -> Cancelled:
    """Cancel every order of a command that has not ended; agents that hold one get a `cancel` order at their next poll.

    Repeating it changes nothing.
    """
    return await commands.cancel(request_id, claims_of(request).subject)


@post("/commands/{request_id:uuid}/pause", status_code=200, opt=OPERATE)
async def pause_command(request: AnyRequest, request_id: FromPath[UUID], commands: NamedDependency[Commands]) -> Held:
    """Hold the orders that have not been offered yet; 409 if the command is held already or has ended."""
    return await commands.pause(request_id, claims_of(request).subject)


@post("/commands/{request_id:uuid}/resume", status_code=200, opt=OPERATE)
async def resume_command(request: AnyRequest, request_id: FromPath[UUID], commands: NamedDependency[Commands]) -> Held:
    """Resume a paused or stopped command; 409 if it is neither."""
    return await commands.resume(request_id, claims_of(request).subject)


@post("/commands/{request_id:uuid}/retry", status_code=201, opt=OPERATE | reads(Retry, is_required=False))
async def retry_command(
    request: AnyRequest, request_id: FromPath[UUID], submission_services: NamedDependency[SubmissionServices]
) -> SubmittedCommands:
    """Submit a command again, under a new id, to the recipients whose orders failed (or have one of `statuses`)."""
    async with submission_services.bodies.receive(request, JSON_BYTES_MAXIMUM) as body:
        retry = read_json(body or b"{}", _RETRY, '{"statuses"?, "timeout"?}')
        user = claims_of(request).subject
        key = read_key(user, request.headers.get(HEADER), request_id.bytes + body)
    with span("submit"):
        return SubmittedCommands(await submission_services.submissions.retry(request_id, user, retry, key))


SUBMISSION_ROUTES = [submit_commands, submit_plugin_commands]
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
]
