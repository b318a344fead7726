"""`comms-api commands`: submit, watch, pause and cancel commands, and fetch their results."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import click
import msgspec

from comms_api.cli.shared.operator import JsonObject, Operator, operation
from comms_api.cli.shared.output import copy, print_fitting, print_json
from comms_api.cli.shared.periods import period_options
from comms_api.cli.shared.recipients import present, read_action, read_target, recipient_options
from comms_api.cli.shared.waiting import wait_for, waiting_option
from comms_api.cli.signing import FILE, find_agents, read_time, sign_for
from comms_api.protocol import Action, Signed
from comms_api.signatures import SIGNED_COMMANDS_MAXIMUM

SOURCE = "Users/Services"
NAMES_SHOWN = 3


@click.group(context_settings={"auto_envvar_prefix": "COMMS_CLI", "show_default": True})
def commands() -> None:
    """Submit commands to agents and services, and follow them."""


@operation(commands, "send")
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
def send(operator: Operator, *, dry_run: bool, is_waiting: bool, idempotency_key: str | None, **options: Any) -> None:
    """Submit one command, or the signed commands of a file."""
    query = {"dry_run": "true"} if dry_run else {}
    bodies = _signed_bodies(options) if options["signature"] else [_command(options)]
    submitted: list[JsonObject] = []
    for number, body in enumerate(bodies):
        # Requests with different bodies need different keys.
        key = f"{idempotency_key}-{number}" if number else idempotency_key
        headers = {"Idempotency-Key": key} if key and idempotency_key else {}
        answer = operator.ask("POST", "/commands", content=msgspec.json.encode(body), headers=headers, params=query)
        submitted += answer.json()["commands"]
    for command in submitted:
        _show(command, dry_run=dry_run)
    for command in submitted if is_waiting and not dry_run else ():
        wait_for(operator, command["request_id"])


def _show(submitted: JsonObject, *, dry_run: bool) -> None:
    if dry_run:
        click.echo(f"{submitted['orders']} would get it{_skipped(submitted)}")
        for recipient in submitted["recipients"]:
            click.echo(recipient)
    else:
        click.echo(f"{submitted['request_id']} {submitted['orders']} order(s){_skipped(submitted)}")


def _skipped(submitted: JsonObject) -> str:
    return f", {submitted['skipped']} offline agent(s) skipped" if submitted["skipped"] else ""


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


@operation(commands, "sign")
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
    operator: Operator, *, key_file: Path, valid_seconds: float, valid_from: datetime | None, **options: Any
) -> None:
    """Sign a command for the agents that match now, and write it to a file.

    The signature names agents by id, as the server lists them now. Check their number before you send the command.
    """
    action = msgspec.convert(read_action(options), Action)
    agents = find_agents(operator, read_target(options))
    signed = sign_for(agents, action, key_file, valid_from, timedelta(seconds=valid_seconds))
    options["output"].write(msgspec.json.encode(signed))
    click.echo(f"signed for {len(agents)} agent(s)")


_REQUEST_ID = click.argument("request_id", type=click.UUID)


@operation(commands, "list")
@click.option("--action", help="Only commands with this action.")
@click.option("--target", help="Only commands for this agent, group or service.")
@click.option("--continuous", is_flag=True, help="Only commands that still include later agents.")
@period_options
def list_commands(operator: Operator, **filters: Any) -> None:
    """List commands."""
    rows = []
    for command in operator.pages("/commands", present(filters, *filters)):
        named = _describe_target(command["target"])
        created = command["created_at"][:19]
        rows.append(
            (command["request_id"], created, command["action"]["name"], named, command["user"], command["phase"])
        )
    print_fitting(("command", "created", "action", "target", "user", "phase"), rows)


def _describe_target(target: JsonObject) -> str:
    names = target.get("id", "")
    if isinstance(names, list):
        more = [f"{len(names) - NAMES_SHOWN} more"] if len(names) > NAMES_SHOWN else []
        names = ", ".join(names[:NAMES_SHOWN] + more)
    return f"{target['type']} {names}".strip()


@operation(commands, "show")
@_REQUEST_ID
def show(operator: Operator, request_id: UUID) -> None:
    """Show a command, its progress and its latest failures as JSON."""
    print_json(operator.ask("GET", f"/commands/{request_id}").json())


@operation(commands, "wait")
@_REQUEST_ID
def wait(operator: Operator, request_id: UUID) -> None:
    """Show a command's progress until every order has ended.

    The exit code is 1 if an order failed or the rollout has stopped.
    """
    wait_for(operator, str(request_id))


@operation(commands, "cancel")
@_REQUEST_ID
def cancel(operator: Operator, request_id: UUID) -> None:
    """Cancel every order of a command that has not ended."""
    answer = operator.ask("POST", f"/commands/{request_id}/cancel").json()
    click.echo(f"{answer['cancelled']} order(s) cancelled, {answer['told']} recipient(s) will be notified")


@operation(commands, "pause")
@_REQUEST_ID
def pause(operator: Operator, request_id: UUID) -> None:
    """Hold the orders that have not been offered yet."""
    click.echo(f"{operator.ask('POST', f'/commands/{request_id}/pause').json()['orders']} order(s) held")


@operation(commands, "resume")
@_REQUEST_ID
def resume(operator: Operator, request_id: UUID) -> None:
    """Resume a paused or stopped command."""
    click.echo(f"the command is {operator.ask('POST', f'/commands/{request_id}/resume').json()['phase']}")


@operation(commands, "retry")
@_REQUEST_ID
@click.option("--cancelled", "with_cancelled", is_flag=True, help="Repeat cancelled orders as well.")
@waiting_option
def retry(operator: Operator, request_id: UUID, *, with_cancelled: bool, is_waiting: bool) -> None:
    """Submit a command again to the recipients whose orders failed."""
    statuses = ["failure", "cancelled"] if with_cancelled else ["failure"]
    answer = operator.ask("POST", f"/commands/{request_id}/retry", json={"statuses": statuses})
    [submitted] = answer.json()["commands"]
    click.echo(f"{submitted['request_id']} {submitted['orders']} order(s)")
    if is_waiting:
        wait_for(operator, submitted["request_id"])


@operation(commands, "results")
@_REQUEST_ID
@click.option("--format", "form", type=click.Choice(["csv", "ndjson"]), default="csv", help="Format of the results.")
@click.option("--output", type=click.File("wb"), default="-", help="File to write; by default standard output.")
def results(operator: Operator, request_id: UUID, *, form: str, output: Any) -> None:
    """Fetch every order of a command with its result."""
    with operator.stream(f"/commands/{request_id}/results", params={"format": form}) as answer:
        copy(answer.iter_bytes(), output)
