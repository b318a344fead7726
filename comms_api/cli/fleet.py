"""`comms-api fleet`: show what happened to agents and nodes, and follow it."""

import time
from collections.abc import Iterable, Iterator
from typing import Any, get_args

import click
import httpx
import msgspec

from comms_api.cli.shared.operator import JsonObject, Operator, operation
from comms_api.cli.shared.output import say
from comms_api.errors import Unavailable
from comms_api.fleet.model import FleetEventKind
from comms_api.text.printable import escape_json

FOLLOW_SECONDS = 2.0
PAGE = 1_000


@click.group(context_settings={"auto_envvar_prefix": "COMMS_CLI", "show_default": True})
def fleet() -> None:
    """Show what happened to agents and nodes."""


_KINDS = [kind for group in get_args(FleetEventKind) for kind in get_args(group)]


@operation(fleet, "events")
@click.option("--kind", type=click.Choice(_KINDS), help="Only events of this kind.")
@click.option("--agent", "agent_id", help="Only events of this agent, by id or name.")
@click.option("--node", help="Only events of this node.")
@click.option("--since", metavar="TIME", help="Only events since this time, such as 2026-12-24T18:00:00Z.")
@click.option("--last", type=click.IntRange(1, PAGE), default=20, help="Number of events; the newest ones.")
@click.option("--follow", is_flag=True, help="Continue with new events until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each event, for programs.")
def events(operator: Operator, *, last: int, follow: bool, as_json: bool, **filters: Any) -> None:
    """Show the newest events, oldest first."""
    query = {name: value for name, value in filters.items() if value is not None}
    newest = operator.ask("GET", "/fleet/events", params={"order": "newest", "limit": 1}).json()["items"]
    position = newest[0]["position"] if newest else 0
    page = operator.ask("GET", "/fleet/events", params=query | {"order": "newest", "limit": last}).json()
    shown = page["items"][::-1]
    _print(shown, as_json=as_json)
    if follow:
        _print(_following(operator, query, max([position, *(event["position"] for event in shown)])), as_json=as_json)


def _following(operator: Operator, query: JsonObject, position: int) -> Iterator[JsonObject]:
    """Yield the events after a position forever; wait while the server cannot be reached."""
    while True:
        try:
            found = list(operator.pages("/fleet/events", query | {"limit": PAGE, "after": position}))
        except (httpx.TransportError, Unavailable) as error:
            say(f"the server does not answer now: {error}", is_error=True)
            found = []
        yield from found
        position = found[-1]["position"] if found else position
        time.sleep(FOLLOW_SECONDS)


def _print(found: Iterable[JsonObject], *, as_json: bool) -> None:
    for event in found:
        if as_json:
            click.echo(escape_json(msgspec.json.encode(event).decode()))
        else:
            subject = event["agent_name"] or event["node"] or ""
            details = msgspec.json.encode(event["details"]).decode()
            say(f"{event['at']} {event['kind']} {subject} {details}")
