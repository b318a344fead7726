"""`comms-api events list`, `show`, `export` and `tail`."""

from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import chain, islice
from typing import Any, TypeVar
from uuid import UUID

import click

from comms_api.cli.shared.following import PAGE, follow_answers
from comms_api.cli.shared.operation import Listing, Outcome, operation, present
from comms_api.cli.shared.output import JsonObject, Notice, copy, say
from comms_api.cli.shared.periods import period_and_order_options, period_options
from comms_api.cli.shared.views import Columns, describe, fields, second, table
from comms_api.management_client.client import ManagementClient

LINES = {"Accept": "application/x-ndjson"}

Function = TypeVar("Function", bound=Callable[..., Any])

_FILTERS = (
    click.option("--agent", "agent_id", help="Only events of this agent, by id or name."),
    click.option("--group", help="Only events of the agents that are in this group now."),
    click.option("--module", help="Only events of this module."),
    click.option("--collector", help="Only events of this collector."),
    click.option("--contains", metavar="TEXT", help="Only events that contain this text, in the same case."),
)


def _text(event: JsonObject) -> str:
    """Return the log line of an event that has one, or the whole event."""
    match event["event"]:
        case {"event": {"original": str(line)}}:
            return line
        case content:
            return describe(content)


_COLUMNS: Columns = {
    "received": lambda event: second(event["received_at"]),
    "id": "id",
    "agent": "agent_id",
    "module": "module",
    "collector": "collector",
    "event": _text,
}


def _filter_options(function: Function) -> Function:
    for option in reversed(_FILTERS):
        function = option(function)
    return function


@operation(None, "list", table(_COLUMNS), is_list=True, is_watchable=True)
@_filter_options
@period_and_order_options
def list_events(_api: ManagementClient, **filters: Any) -> Listing:
    """List events."""
    return Listing("/events", present(filters))


@operation(None, "show", fields)
@click.argument("event_id", type=click.UUID)
def show(api: ManagementClient, event_id: UUID) -> JsonObject:
    """Show an event."""
    event: JsonObject = api.ask("GET", f"/events/{event_id}").json()
    return event


@operation(None, "export", None)
@_filter_options
@period_options
@click.option("--after", type=click.UUID, help="Only events after the one with this id.")
@click.option("--output", type=click.File("wb"), default="-", help="File to write; by default standard output.")
def export(api: ManagementClient, *, output: Any, **filters: Any) -> None:
    """Write all events as lines of JSON, oldest first."""
    with api.stream("/events", params=present(filters), headers=LINES) as answer:
        copy(answer.iter_bytes(), output)


def _print_lines(events: Iterable[JsonObject]) -> None:
    for event in events:
        stream = f"{event['module']}/{event['collector']}"
        say(f"{event['received_at']} {event['agent_id']} {stream} {_text(event)}")


@operation(None, "tail", _print_lines)
@_filter_options
@click.option("--last", type=click.IntRange(0, PAGE), default=20, help="Number of events; the newest ones.")
@click.option("--follow", is_flag=True, help="Continue with new events until Ctrl-C.")
def tail(api: ManagementClient, *, last: int, follow: bool, **filters: Any) -> Outcome:
    """Show the newest events, oldest first.

    With --json, each event is a line. With --follow, no event is left out, however late it is committed.
    """
    query = present(filters)
    begin: str = api.ask("GET", "/events/tail").json()["next"]  # before the list, so that none is missed in between
    newest = api.pages("/events", query | {"order": "newest", "limit": last}) if last else ()
    shown = list(islice(newest, last))[::-1]
    later = _following(api, query, begin, {event["id"] for event in shown}) if follow else iter(())
    return Outcome(chain(shown, later), is_stream=True)


def _following(api: ManagementClient, query: JsonObject, after: str, shown: Collection[str]) -> Iterator[JsonObject]:
    """Yield the events after a position forever, except those `shown`."""
    held_back = Notice()
    for answer in follow_answers(api, "/events/tail", query, after):
        yield from (event for event in answer["items"] if event["id"] not in shown)
        held = answer["held_back"]
        held_back.show(f"new events wait for the end of an open transaction: {held['by']}" if held else "")
