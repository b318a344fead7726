"""`comms-api commands`: submit, watch, pause and cancel commands, and fetch their results."""

from typing import Any
from uuid import UUID

import click
import msgspec

from comms_api.cli.operator import JsonObject, Operator, operation
from comms_api.cli.output import copy, print_fitting, print_json
from comms_api.cli.waiting import wait_for, waiting_option

SOURCE = "Users/Services"
NAMES_SHOWN = 3


@click.group(context_settings={"auto_envvar_prefix": "COMMS_CLI", "show_default": True})
def commands() -> None:
    """Submit commands to agents and services, and follow them."""


@operation(commands, "send")
@click.option("--agent", "agents", multiple=True, help="Agent, by id or name; may be repeated.")
@click.option("--group", "groups", multiple=True, help="Group; may be repeated.")
@click.option("--all", "is_all", is_flag=True, help="Every agent.")
@click.option("--service", help="Service, such as rbac.")
@click.option("--os", help="Only agents with this system, by name or type; * matches any text.")
@click.option("--version", help="Only agents of this version; * matches any text.")
@click.option(
    "--status", type=click.Choice(["active", "disconnected", "never_connected"]), help="Only agents with this status."
)
@click.option(
    "--label", "labels", multiple=True, metavar="KEY:VALUE", help="Only agents with this label; may be repeated."
)
@click.option("--action", required=True, help="Name of the action.")
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
    """Submit one command."""
    command = _command(options)
    headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
    query = {"dry_run": "true"} if dry_run else {}
    body = msgspec.json.encode(command)
    [submitted] = operator.ask("POST", "/commands", content=body, headers=headers, params=query).json()["commands"]
    if dry_run:
        click.echo(f"{submitted['orders']} would get it{_skipped(submitted)}")
        for recipient in submitted["recipients"]:
            click.echo(recipient)
        return
    click.echo(f"{submitted['request_id']} {submitted['orders']} order(s){_skipped(submitted)}")
    if is_waiting:
        wait_for(operator, submitted["request_id"])


def _skipped(submitted: JsonObject) -> str:
    return f", {submitted['skipped']} offline agent(s) skipped" if submitted["skipped"] else ""


def _command(options: JsonObject) -> JsonObject:
    try:
        args = msgspec.Raw(options["args"].encode())
        msgspec.json.decode(args)
    except msgspec.DecodeError as error:
        raise click.BadParameter(str(error), param_hint="--args") from None
    rollout = _present(options, "percent", "per_minute", "max_in_flight", "failure_ratio")
    command = {
        "source": SOURCE,
        "target": _target(options),
        "action": {"name": options["action"], "args": args},
        "timeout": options["timeout"],
        "priority": options["priority"],
    }
    continuity = {"continuous": True, "until": options["until"]} if options["until"] else {}
    return command | continuity | _present(options, "start_at", "offline") | ({"rollout": rollout} if rollout else {})


def _present(options: JsonObject, *names: str) -> JsonObject:
    return {name: options[name] for name in names if options[name] is not None}


def _target(options: JsonObject) -> JsonObject:
    targets: list[JsonObject] = [
        {"type": kind, "id": list(ids)}
        for kind, ids in (("agent", options["agents"]), ("group", options["groups"]))
        if ids
    ]
    targets += [{"type": "all"}] if options["is_all"] else []
    targets += [{"type": "server", "id": options["service"]}] if options["service"] else []
    if len(targets) != 1:
        raise click.UsageError("name the recipients by one of --agent, --group, --all, --service")
    pairs = [label.partition(":") for label in options["labels"]]
    labels = {key: value for key, _, value in pairs}
    narrowed = _present(options, "os", "version", "status") | ({"labels": labels} if labels else {})
    return targets[0] | ({"filter": narrowed} if narrowed else {})


_REQUEST_ID = click.argument("request_id", type=click.UUID)


@operation(commands, "list")
@click.option("--action", help="Only commands with this action.")
@click.option("--target", help="Only commands for this agent, group or service.")
@click.option("--continuous", is_flag=True, help="Only commands that still include later agents.")
def list_commands(operator: Operator, **filters: Any) -> None:
    """List commands, oldest first."""
    rows = []
    for command in operator.pages("/commands", _present(filters, "action", "target", "continuous")):
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
