"""The options that say which recipients get a command, and which action."""

from collections.abc import Callable
from typing import Any, TypeVar

import click
import msgspec

from comms_api.cli.shared.labels import read_labels
from comms_api.cli.shared.operation import present
from comms_api.cli.shared.output import JsonObject

Function = TypeVar("Function", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--agent", "agents", multiple=True, help="Agent, by id or name; may be repeated."),
    click.option("--group", "groups", multiple=True, help="Group; may be repeated."),
    click.option("--all", "is_all", is_flag=True, help="Every agent."),
    click.option("--service", help="Service, such as rbac."),
    click.option("--os", help="Only agents with this system, by name or type; * matches any text."),
    click.option("--version", help="Only agents of this version; * matches any text."),
    click.option(
        "--status",
        type=click.Choice(["active", "disconnected", "never_connected"]),
        help="Only agents with this status.",
    ),
    click.option(
        "--label", "labels", multiple=True, metavar="KEY:VALUE", help="Only agents with this label; may be repeated."
    ),
)


def recipient_options(function: Function) -> Function:
    """Add the options that choose the recipients of a command."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def read_target(options: JsonObject) -> JsonObject:
    """Return the target of a command; raises `UsageError` unless exactly one kind of recipient is named."""
    targets: list[JsonObject] = [
        {"type": kind, "id": list(ids)}
        for kind, ids in (("agent", options["agents"]), ("group", options["groups"]))
        if ids
    ]
    targets += [{"type": "all"}] if options["is_all"] else []
    targets += [{"type": "server", "id": options["service"]}] if options["service"] else []
    if len(targets) != 1:
        raise click.UsageError("name the recipients by one of --agent, --group, --all, --service")
    labels = read_labels(options["labels"])
    narrowed = present(options, "os", "version", "status") | ({"labels": labels} if labels else {})
    return targets[0] | ({"filter": narrowed} if narrowed else {})


def read_action(options: JsonObject) -> JsonObject:
    """Return the action of a command; raises `UsageError` without one, or with args that are not JSON."""
    if not options["action"]:
        raise click.UsageError("name the action: --action")
    try:
        args = msgspec.Raw(options["args"].encode())
        msgspec.json.decode(args)
    except msgspec.DecodeError as error:
        raise click.BadParameter(str(error), param_hint="--args") from None
    return {"name": options["action"], "args": args}
