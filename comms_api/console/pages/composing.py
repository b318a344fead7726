"""The form for new commands, with a preview of the recipients and a dry run."""

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from litestar import Response, get, post
from litestar.di import NamedDependency

from comms_api.actions.model import ActionSchema
from comms_api.actions.service import Actions
from comms_api.commands.routes import SubmissionServices
from comms_api.commands.service import Commands
from comms_api.commands.submission.idempotency import IdempotencyKey
from comms_api.commands.submission.previews import COUNTED_MAXIMUM, Previews
from comms_api.commands.submission.targets import SERVICES
from comms_api.console.drafts import BYTES_MAXIMUM, OTHER_ACTION, UNIT_SECONDS, Draft, draft_of, faults_of
from comms_api.console.queries import read_fields, read_query, read_texts
from comms_api.console.rendering import notify, refuse, render
from comms_api.console.schema_forms import Field, defaults_of, expresses, form_of, read_args, read_value
from comms_api.errors import Invalid, Malformed
from comms_api.groups.service import Groups
from comms_api.http.authentication import service_of
from comms_api.http.request import AnyRequest
from comms_api.http.roles import OPERATE

GROUPS_OFFERED = 200
ARGS = "args/"
"""The beginning of the names of the fields for args."""

_OBJECT_OR_ARRAY = msgspec.json.Decoder(dict[str, Any] | list[Any])


class Arguments(msgspec.Struct, frozen=True):
    """The part of the form for the args of an action: a field for each, or without `fields` their JSON."""

    schema: ActionSchema | None
    versions: Sequence[str]
    fields: Sequence[Field] | None
    has_form: bool

    @property
    def description(self) -> str:
        """The description in the schema."""
        schema = msgspec.json.decode(self.schema.schema) if self.schema else None
        return str(schema.get("description") or "") if isinstance(schema, dict) else ""


class Sent(msgspec.Struct, frozen=True):
    """A form as the page sent it; `args` are its fields for single args, by name."""

    draft: Draft
    args: Mapping[str, str]


async def _receive(request: AnyRequest, services: SubmissionServices) -> Sent:
    async with services.bodies.receive(request, BYTES_MAXIMUM) as body:
        fields = read_fields(body)
    args = {name: value for name, value in fields.items() if name.startswith(ARGS)}
    return Sent(read_texts({name: fields[name] for name in fields.keys() - args.keys()}, Draft), args)


async def _find_schema(actions: Actions, draft: Draft) -> tuple[ActionSchema | None, Sequence[str]]:
    """Return the schema of an action and its registered versions; an action without versions has one schema for all."""
    versions = await actions.find_versions(draft.action_name, draft.version)
    return versions.get(draft.version) or versions.get(""), sorted(versions) if any(versions) else ()


async def _read_args(actions: Actions, sent: Sent) -> bytes:
    """Return the args of a form as JSON; raises `Malformed`, and `Invalid` if the schema has changed since."""
    if sent.draft.shows == "json":
        return msgspec.json.encode(read_value(sent.draft.args, _OBJECT_OR_ARRAY, "action.args"))
    schema, _ = await _find_schema(actions, sent.draft)
    fields = None if schema is None else _form_of(schema, None)
    if fields is None:
        raise Invalid("arguments: the action has changed since the page was loaded; reload the page")
    return read_args(fields, sent.args)


def _form_of(schema: ActionSchema, args: Any) -> Sequence[Field] | None:
    return () if schema.drops_args else form_of(schema.schema.encode(), args)


async def _show_args(actions: Actions, draft: Draft, args: Any) -> tuple[Draft, Arguments]:
    """Return the part of the form for the args, with the schema's defaults if `args` is None.

    The draft changes if its version is not registered, or if no form can express the args.
    """
    schema, versions = await _find_schema(actions, draft)
    if versions and draft.version not in versions:
        draft = msgspec.structs.replace(draft, version=versions[-1])
        schema, versions = await _find_schema(actions, draft)
    values = _defaults_of(schema) if args is None else args
    fields = _form_of(schema, values) if schema else None
    if fields is not None and args is not None and not expresses(fields, args):
        fields = None
    has_form = fields is not None or (schema is not None and _form_of(schema, None) is not None)
    draft = msgspec.structs.replace(
        draft,
        shows="json" if fields is None else draft.shows,
        args=msgspec.json.format(msgspec.json.encode(values)).decode(),
    )
    return draft, Arguments(schema, versions, fields, has_form)


def _defaults_of(schema: ActionSchema | None) -> Any:
    return {} if schema is None else defaults_of(schema.schema.encode())


@get("/console/commands/new", opt=OPERATE)
async def show_form(
    request: AnyRequest,
    actions: NamedDependency[Actions],
    commands: NamedDependency[Commands],
    groups: NamedDependency[Groups],
    submission_services: NamedDependency[SubmissionServices],
) -> Response[bytes]:
    """Show the form, empty or with the values in the URL or of an earlier command."""
    draft, names = read_query(request, Draft), await actions.list_names()
    args: Any = None
    if draft.like is not None:
        command = (await commands.get(draft.like)).command
        draft, args = draft_of(command), msgspec.json.decode(command.action.args)
    if draft.action_name and draft.action not in names:
        draft = msgspec.structs.replace(draft, action=OTHER_ACTION, other_action=draft.action_name)
    if draft.selection:
        draft = msgspec.structs.replace(draft, target="selection")
    draft = msgspec.structs.replace(draft, token=secrets.token_hex(16))
    draft, arguments = await _show_args(actions, draft, args)
    return render(
        request,
        "compose.html",
        draft=draft,
        arguments=arguments,
        names=names,
        has_other=submission_services.submissions.passes_unknown,
        other=OTHER_ACTION,
        groups=(await groups.list(None, GROUPS_OFFERED)).items,
        services=sorted(SERVICES),
        units=UNIT_SECONDS,
    )


@post("/console/commands/new/arguments", opt=OPERATE, status_code=200)
async def show_arguments(
    request: AnyRequest,
    actions: NamedDependency[Actions],
    submission_services: NamedDependency[SubmissionServices],
) -> Response[bytes]:
    """Show the part of the form for the args: for another action, or in another form."""
    sent = await _receive(request, submission_services)
    try:
        args = None if sent.draft.show is None else msgspec.json.decode(await _read_args(actions, sent))
    except (Invalid, Malformed) as error:
        return refuse(request, faults_of(error, sent.draft, sent.args))
    draft = msgspec.structs.replace(sent.draft, shows=sent.draft.show or "form")
    draft, arguments = await _show_args(actions, draft, args)
    return render(request, "compose_arguments.html", draft=draft, arguments=arguments)


@post("/console/commands/new/recipients", opt=OPERATE, status_code=200)
async def show_recipients(
    request: AnyRequest, previews: NamedDependency[Previews], submission_services: NamedDependency[SubmissionServices]
) -> Response[bytes]:
    """Show how many agents would get the command, and some of them."""
    draft = (await _receive(request, submission_services)).draft
    try:
        # The action and its args may be incomplete while somebody writes them; they do not change the recipients.
        body = msgspec.structs.replace(draft, action="restart").document(b"{}")
        user, [command], _ = submission_services.read(request, body)
        preview = await previews.preview(user, command)
    except (Invalid, Malformed) as error:
        return render(request, "compose_recipients.html", faults=faults_of(error, draft), preview=None)
    return render(request, "compose_recipients.html", faults=(), preview=preview, counted=COUNTED_MAXIMUM)


@post("/console/commands/new/dry-run", opt=OPERATE, status_code=200)
async def rehearse_command(
    request: AnyRequest,
    actions: NamedDependency[Actions],
    previews: NamedDependency[Previews],
    submission_services: NamedDependency[SubmissionServices],
) -> Response[bytes]:
    """Show what the command would do, or every reason why the server would refuse it."""
    sent = await _receive(request, submission_services)
    try:
        args = await _read_args(actions, sent)
        user, commands, _ = submission_services.read(request, sent.draft.document(args))
        [rehearsed] = await submission_services.submissions.rehearse(user, commands)
        preview = await previews.preview(user, commands[0])
    except (Invalid, Malformed) as error:
        return render(request, "compose_dry_run.html", faults=faults_of(error, sent.draft, sent.args))
    return render(request, "compose_dry_run.html", faults=(), command=commands[0], rehearsed=rehearsed, preview=preview)


@post("/console/commands/new", opt=OPERATE, status_code=200)
async def submit_command(
    request: AnyRequest,
    actions: NamedDependency[Actions],
    submission_services: NamedDependency[SubmissionServices],
) -> Response[bytes]:
    """Submit the command, and open its page; a repeated submission of the same form opens the same page."""
    sent = await _receive(request, submission_services)
    try:
        body = sent.draft.document(await _read_args(actions, sent))
        digest = hashlib.sha256(body)
        user, commands, _ = submission_services.read(request, body)
        key = IdempotencyKey(user, f"console {sent.draft.token} {digest.hexdigest()}", digest.digest())
        [submitted] = await submission_services.submissions.submit(user, commands, key, service_of(request))
    except (Invalid, Malformed) as error:
        return refuse(request, faults_of(error, sent.draft, sent.args))
    return notify(request, "", location=f"/console/commands/{submitted.request_id}")


ROUTES = [show_form, show_arguments, show_recipients, rehearse_command, submit_command]
