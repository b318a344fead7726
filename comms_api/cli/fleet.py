"""`comms-api fleet`: show what happened to agents and nodes, and follow it."""

import time
from collections.abc import Iterator
from itertools import chain
from typing import Any, get_args

import click

from comms_api.cli.shared.operation import NOUN, Outcome, operation, present
from comms_api.cli.shared.output import JsonObject, Notice, say
from comms_api.cli.shared.views import describe
from comms_api.errors import Unavailable
from comms_api.fleet.model import FleetEventKind
from comms_api.management_client.client import ManagementClient

FOLLOW_SECONDS = 2.0
PAGE = 1_000


@click.group(context_settings=NOUN)
def fleet() -> None:
    """Show what happened to agents and nodes."""


_KINDS = get_args(FleetEventKind)


def _show(found: Iterator[JsonObject]) -> None:
    for event in found:
        subject = event["agent_name"] or event["node"] or ""
        say(f"{event['at']} {event['kind']} {subject} {describe(event['details'])}")


@operation(fleet, "events", _show)
@click.option("--kind", type=click.Choice(_KINDS), help="Only events of this kind.")
@click.option("--agent", "agent_id", help="Only events of this agent, by id or name.")
@click.option("--node", help="Only events of this node.")
@click.option("--since", metavar="TIME", help="Only events since this time, such as 2026-12-24T18:00:00Z.")
@click.option("--last", type=click.IntRange(1, PAGE), default=20, help="Number of events; the newest ones.")
@click.option("--follow", is_flag=True, help="Continue with new events until Ctrl-C.")
def events(api: ManagementClient, *, last: int, follow: bool, **filters: Any) -> Outcome:
    """Show the newest events, oldest first.

    With --json, each event is a line.
    """
    query = present(filters)
    newest = api.ask("GET", "/fleet/events", params={"order": "newest", "limit": 1}).json()["items"]
    position = newest[0]["position"] if newest else 0
    page = api.ask("GET", "/fleet/events", params=query | {"order": "newest", "limit": last}).json()
    shown = page["items"][::-1]
    later = _following(api, query, max([position, *(event["position"] for event in shown)])) if follow else iter(())
    return Outcome(chain(shown, later), is_stream=True)


def _following(api: ManagementClient, query: JsonObject, position: int) -> Iterator[JsonObject]:
    """Yield the events after a position forever; wait while the server cannot be reached."""
    outage = Notice()
    while True:
        try:
            found = list(api.pages("/fleet/events", query | {"limit": PAGE, "after": position}))
            outage.show("")
        except Unavailable as error:
            outage.show(f"the server does not answer now: {error}")
            found = []
        yield from found
        position = found[-1]["position"] if found else position
        time.sleep(FOLLOW_SECONDS)
