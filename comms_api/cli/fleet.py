"""`comms-api fleet`: show what happened to agents and nodes, and follow it."""

from collections.abc import Iterator
from itertools import chain
from typing import Any, get_args

import click

from comms_api.cli.shared.following import PAGE, follow_answers
from comms_api.cli.shared.operation import NOUN, Outcome, operation, present
from comms_api.cli.shared.output import JsonObject, say
from comms_api.cli.shared.views import describe
from comms_api.fleet.model import FleetEventKind
from comms_api.management_client.client import ManagementClient


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
    begin: int = api.ask("GET", "/fleet/events/tail").json()["next"]
    page = api.ask("GET", "/fleet/events", params=query | {"order": "newest", "limit": last}).json()
    shown = page["items"][::-1]
    if not follow:
        return Outcome(iter(shown), is_stream=True)
    begin = max([begin, *(event["position"] for event in shown)])
    filters = {name: value for name, value in query.items() if name != "since"}
    answers = follow_answers(api, "/fleet/events/tail", filters, begin)
    later = (event for answer in answers for event in answer["items"])
    return Outcome(chain(shown, later), is_stream=True)
