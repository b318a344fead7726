"""`comms-api commands`: submit, watch, pause and cancel commands, and fetch their results."""

from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import click
import msgspec

from comms_api.cli.shared.operation import NOUN, Listing, Outcome, operation, present
from comms_api.cli.shared.output import JsonObject, copy, print_json, say
from comms_api.cli.shared.periods import period_and_order_options
from comms_api.cli.shared.recipients import read_action, read_target, recipient_options
from comms_api.cli.shared.views import Columns, second, sentence, table
from comms_api.cli.shared.waiting import summarize, wait_for, waiting_option
from comms_api.cli.signing import FILE, find_agents, read_time, sign_for
from comms_api.management_client.client import IDEMPOTENCY_KEY, ManagementClient
from comms_api.protocol import Action, Signed
from comms_api.signatures import SIGNED_COMMANDS_MAXIMUM

SOURCE = "Users/Services"
NAMES_SHOWN = 3


@click.group(context_settings=NOUN)
def commands() -> None:
    """Submit commands to agents and services, and follow them."""


def _show_submitted(submitted: list[JsonObject]) -> None:
    for command in submitted:
        skipped = f", {command['skipped']} offline agent(s) skipped" if command["skipped"] else ""
        if "recipients" in command:
            say(f"{command['orders']} would get it{skipped}")
            for recipient in command["recipients"]:
                say(recipient)
        else:
            say(f"{command['request_id']} {command['orders']} order(s){skipped}")


@operation(commands, "send", _show_submitted)
@recipient_options
@click.option("--signature", type=click.File("rb"), help="File from `commands sign`, with the agents and the action.")
@click.option("--action", help="Name of the action.")
@click.option("--args", default="{}", metavar="JSON", help="Arguments of the action.")
@click.option("--timeout", type=float, default=300.0, metavar="SECONDS", help="Lifetime of the orders.")
@click.option("--priority", type=int, default=0, help="-100 to 100; orders of higher priority are offered first.")
@click.option("--start-at", metavar="TIME", help="Offer no order before this time, such as 2026-12-24T18:00:00Z.")
@click.option("--offline", type=click.Choice(["wait", "skip"]), help="Whether offline agents get it later, or not.")
@click.option("--continuous-until", "until", metavar="TIME", help="Include agents that match later, until this time.")
@click.option("--percent", type=float, help="Roll out in stages of this percentage.")
@click.option("--per-minute", type=float, help="Roll out at most this many orders per minute.")
@click.option("--max-in-flight", type=int, help="Keep at most this many orders in flight.")
@click.option("--failure-ratio", type=float, help="Stop when more than this share of the orders has failed.")
@click.option("--idempotency-key", help="Submit only once for all runs with this key.")
@click.option("--dry-run", is_flag=True, help="Only show the recipients.")
@waiting_option
def send(
    api: ManagementClient, *, dry_run: bool, is_waiting: bool, idempotency_key: str | None, **options: Any
) -> Outcome:
    """Submit one command, or the signed commands of a file."""
    bodies = _signed_bodies(options) if options["signature"] else [_command(options)]
    key = idempotency_key or uuid4().hex  # with a key, the client can repeat the request
    submitted: list[JsonObject] = []
    for number, body in enumerate(bodies):
        # Requests with different bodies need different keys.
        headers = {IDEMPOTENCY_KEY: f"{key}-{number}" if number else key}
        query = {"dry_run": "true"} if dry_run else {}
        answer = api.ask("POST", "/commands", content=msgspec.json.encode(body), headers=headers, params=query)
        submitted += answer.json()["commands"]
    return Outcome(submitted, then=partial(_wait_for_all, api, submitted) if is_waiting and not dry_run else None)


def _wait_for_all(api: ManagementClient, submitted: list[JsonObject]) -> int:
    """Wait for commands, and return the lowest exit code but 0."""
    codes = [wait_for(api, command["request_id"]).exit_code for command in submitted]
    return min(filter(None, codes), default=0)


def _command(options: JsonObject) -> JsonObject:
    continuity = {"continuous": True, "until": options["until"]} if options["until"] else {}
    return _delivery(options) | {"target": read_target(options), "action": read_action(options)} | continuity


def _signed_bodies(options: JsonObject) -> list[JsonObject]:
    """Return the bodies that submit the commands of a signature, each with as many as one request may have."""
    if any(options[name] for name in ("agents", "groups", "is_all", "service", "action", "until")):
        raise click.UsageError("--signature names the agents and the action; leave out the options that name them")
    try:
        signed = msgspec.json.decode(options["signature"].read(), type=list[Signed])
    except msgspec.DecodeError as error:
        raise click.BadParameter(str(error), param_hint="--signature") from None
    signed_commands = [_delivery(options) | {"signed": one} for one in signed]
    starts = range(0, len(signed_commands), SIGNED_COMMANDS_MAXIMUM)
    return [{"commands": signed_commands[start : start + SIGNED_COMMANDS_MAXIMUM]} for start in starts]


def _delivery(options: JsonObject) -> JsonObject:
    """Return the members of a command that are not signed."""
    rollout = present(options, "percent", "per_minute", "max_in_flight", "failure_ratio")
    command = {"source": SOURCE, "timeout": options["timeout"], "priority": options["priority"]}
    return command | present(options, "start_at", "offline") | ({"rollout": rollout} if rollout else {})


@operation(commands, "sign", sentence("signed for {agents} agent(s)"))
@recipient_options
@click.option("--action", required=True, help="Name of the action.")
@click.option("--args", default="{}", metavar="JSON", help="Arguments of the action.")
@click.option(
    "--key", "key_file", type=FILE, required=True, help="Private Ed25519 key (PEM); it stays on this machine."
)
@click.option("--valid-seconds", type=click.FloatRange(min=1), default=3_600.0, help="Validity of the signature.")
@click.option("--valid-from", metavar="TIME", callback=read_time, help="Start of the validity; by default now.")
@click.option("--output", type=click.File("wb"), required=True, help="File for `commands send --signature`.")
def sign(
    api: ManagementClient, *, key_file: Path, valid_seconds: float, valid_from: datetime | None, **options: Any
) -> JsonObject:
    """Sign a command for the agents that match now, and write it to a file.

    The signature names agents by id, as the server lists them now. Check their number before you send the command.
    """
    action = msgspec.convert(read_action(options), Action)
    agents = find_agents(api, read_target(options))
    signed = sign_for(agents, action, key_file, valid_from, timedelta(seconds=valid_seconds))
    options["output"].write(msgspec.json.encode(signed))
    return {"agents": len(agents), "file": options["output"].name}


_REQUEST_ID = click.argument("request_id", type=click.UUID)


_COLUMNS: Columns = {
    "command": "request_id",
    "created": lambda command: second(command["created_at"]),
    "action": lambda command: command["action"]["name"],
    "target": lambda command: _describe_target(command["target"]),
    "user": "user",
    "phase": "phase",
}
_WIDE: Columns = {
    "starts": lambda command: second(command["starts_at"]),
    "expires": lambda command: second(command["expires_at"]),
    "source": "source",
}


@operation(commands, "list", table(_COLUMNS, _WIDE), is_list=True, is_watchable=True)
@click.option("--action", help="Only commands with this action.")
@click.option("--target", help="Only commands for this agent, group or service.")
@click.option("--continuous", is_flag=True, help="Only commands that still include later agents.")
@period_and_order_options
def list_commands(_api: ManagementClient, **filters: Any) -> Listing:
    """List commands."""
    return Listing("/commands", present(filters))


def _describe_target(target: JsonObject) -> str:
    names = target.get("id", "")
    if isinstance(names, list):
        more = [f"{len(names) - NAMES_SHOWN} more"] if len(names) > NAMES_SHOWN else []
        names = ", ".join(names[:NAMES_SHOWN] + more)
    return f"{target['type']} {names}".strip()


@operation(commands, "show", print_json, is_watchable=True)
@_REQUEST_ID
def show(api: ManagementClient, request_id: UUID) -> JsonObject:
    """Show a command, its progress and its latest failures as JSON."""
    return _ask(api, "GET", f"/commands/{request_id}")


def _ask(api: ManagementClient, method: str, path: str, **request: Any) -> JsonObject:
    answer: JsonObject = api.ask(method, path, **request).json()
    return answer


@operation(commands, "wait", lambda progress: say(summarize(progress)))
@_REQUEST_ID
def wait(api: ManagementClient, request_id: UUID) -> Outcome:
    """Show a command's progress until every order has ended.

    Each outcome has its exit code: 0 if every order succeeded, 3 if one failed, 4 if one was rejected, 5 if one
    expired, 6 if one was cancelled, 7 if the rollout has stopped.
    """
    return wait_for(api, str(request_id))


@operation(commands, "cancel", sentence("{cancelled} order(s) cancelled, {told} recipient(s) will be notified"))
@_REQUEST_ID
def cancel(api: ManagementClient, request_id: UUID) -> JsonObject:
    """Cancel every order of a command that has not ended."""
    return _ask(api, "POST", f"/commands/{request_id}/cancel")


@operation(commands, "pause", sentence("{orders} order(s) held"))
@_REQUEST_ID
def pause(api: ManagementClient, request_id: UUID) -> JsonObject:
    """Hold the orders that have not been offered yet."""
    return _ask(api, "POST", f"/commands/{request_id}/pause")


@operation(commands, "resume", sentence("the command is {phase}"))
@_REQUEST_ID
def resume(api: ManagementClient, request_id: UUID) -> JsonObject:
    """Resume a paused or stopped command."""
    return _ask(api, "POST", f"/commands/{request_id}/resume")


@operation(commands, "retry", _show_submitted)
@_REQUEST_ID
@click.option("--cancelled", "with_cancelled", is_flag=True, help="Repeat cancelled orders as well.")
@waiting_option
def retry(api: ManagementClient, request_id: UUID, *, with_cancelled: bool, is_waiting: bool) -> Outcome:
    """Submit a command again to the recipients whose orders failed."""
    statuses = ["failure", "cancelled"] if with_cancelled else ["failure"]
    headers = {IDEMPOTENCY_KEY: uuid4().hex}
    answer = _ask(api, "POST", f"/commands/{request_id}/retry", json={"statuses": statuses}, headers=headers)
    submitted = answer["commands"]
    return Outcome(submitted, then=partial(_wait_for_all, api, submitted) if is_waiting else None)


@operation(commands, "results", None)
@_REQUEST_ID
@click.option("--format", "form", type=click.Choice(["csv", "ndjson"]), default="csv", help="Format of the results.")
@click.option("--output", type=click.File("wb"), default="-", help="File to write; by default standard output.")
def results(api: ManagementClient, request_id: UUID, *, form: str, output: Any) -> None:
    """Fetch every order of a command with its result."""
    with api.stream(f"/commands/{request_id}/results", params={"format": form}) as answer:
        copy(answer.iter_bytes(), output)
