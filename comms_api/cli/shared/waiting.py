"""Wait for a command at a terminal: show its progress, the recipients it waits for, and why they are late."""

import sys
import time
from collections.abc import Iterator

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from comms_api.cli.shared.operation import INTERRUPTED, Outcome
from comms_api.cli.shared.output import JsonObject, say
from comms_api.cli.shared.views import cell
from comms_api.errors import CommsError, Unavailable
from comms_api.management_client.client import ManagementClient

LOOK_SECONDS = 1.0
QUIET_SECONDS = 3.0
"""Recipients are named when no order has moved for this long."""

AWAY_SECONDS_MAXIMUM = 60.0
"""The wait ends when the server has not answered for this long."""

NAMED_MAXIMUM = 10
OPEN = ("sent", "pending")
ENDED = ("success", "failure", "cancelled")
OUTCOMES = ("success", "failed", "rejected", "expired_before_delivery", "expired_after_delivery", "cancelled")
EXIT_CODES = {"failed": 3, "rejected": 4, "expired_before_delivery": 5, "expired_after_delivery": 5, "cancelled": 6}
"""The exit codes of commands that have orders with an outcome; the first one counts."""

STOPPED = 7
"""The exit code of a command whose rollout has stopped."""


def wait_for(api: ManagementClient, request_id: str) -> Outcome:
    """Show the progress of a command until all of its orders have ended, or its rollout has stopped.

    Returns the last progress and its exit code. Exits with 130 after Ctrl-C.
    """
    try:
        last = _show_progress(api, request_id)
    except KeyboardInterrupt:
        say("The command continues.", is_error=True)
        say(f"Resume waiting with: comms-api commands wait {request_id}", is_error=True)
        say(f"Cancel it with: comms-api commands cancel {request_id}", is_error=True)
        sys.exit(INTERRUPTED)
    for failure in last["failures"]:
        say(f"{failure['agent_id']}: {failure['message']}", is_error=True)
    if last["command"]["phase"] == "stopped":
        say(f"The rollout has stopped: {last['command']['phase_reason']}.", is_error=True)
    if not last["is_done"]:
        say(_describe_awaited(api, last), is_error=True)
        say(f"Resume it with: comms-api commands resume {request_id}", is_error=True)
        return Outcome(last, STOPPED)
    return Outcome(last, next((code for outcome, code in EXIT_CODES.items() if last["orders"][outcome]), 0))


def summarize(progress: JsonObject) -> str:
    """Return a sentence with the number of ended orders, and of the orders in each status."""
    orders = progress["orders"]
    return f"{sum(orders[name] for name in ENDED)}/{orders['total']} order(s) ended: {_describe(progress)}"


def _show_progress(api: ManagementClient, request_id: str) -> JsonObject:
    """Return the last progress of a command."""
    progress: JsonObject = {}
    counts: JsonObject = {}
    moved_at, shown_sentence = time.monotonic(), ""
    columns = (TextColumn("orders"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[counts]}"))
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as shown:
        bar = shown.add_task("", total=None, counts="")
        for progress in _follow(api, request_id):
            if progress["orders"] != counts:
                counts, moved_at = progress["orders"], time.monotonic()
            ended = sum(counts[name] for name in ENDED)
            shown.update(bar, total=counts["total"], completed=ended, counts=_describe(progress))
            if not progress["is_done"] and time.monotonic() - moved_at >= QUIET_SECONDS:
                awaited = _describe_awaited(api, progress)
                if awaited != shown_sentence:
                    shown_sentence = awaited
                    shown.console.print(cell(awaited), soft_wrap=True)
    return progress


def _describe(progress: JsonObject) -> str:
    orders, phase = progress["orders"], progress["command"]["phase"]
    counts = ", ".join(f"{orders[name]} {name.replace('_', ' ')}" for name in (*OPEN, *OUTCOMES) if orders[name])
    return f"{counts}; {phase}" if phase in {"paused", "stopped"} else counts


def _follow(api: ManagementClient, request_id: str) -> Iterator[JsonObject]:
    """Yield a command's progress each second until it is done or stopped; reconnect when the server restarts."""
    answered_at = time.monotonic()
    while True:
        began = time.monotonic()
        try:
            path = f"/commands/{request_id}/wait"
            progress: JsonObject = api.ask("GET", path, params={"timeout": LOOK_SECONDS}).json()
        except Unavailable:
            if began - answered_at > AWAY_SECONDS_MAXIMUM:
                raise
        else:
            answered_at = time.monotonic()
            yield progress
            if progress["is_done"] or progress["command"]["phase"] == "stopped":
                return
        time.sleep(max(0.0, LOOK_SECONDS - (time.monotonic() - began)))


def _describe_awaited(api: ManagementClient, progress: JsonObject) -> str:
    """Return a sentence with the recipients that a command waits for, and the state of each."""
    request_id, total = progress["command"]["request_id"], sum(progress["orders"][name] for name in OPEN)
    orders: list[JsonObject] = []
    for status in OPEN:
        query = {"request_id": request_id, "status": status, "limit": NAMED_MAXIMUM}
        orders += api.ask("GET", "/orders", params=query).json()["items"]
    named = [_describe_recipient(api, order) for order in orders[:NAMED_MAXIMUM]]
    more = [f"{total - len(named)} more"] if total > len(named) else []
    return f"Waiting for {', '.join(named + more)}." if named else "No order is open any more."


def _describe_recipient(api: ManagementClient, order: JsonObject) -> str:
    if order["agent_id"] is None:
        return f"the service {order['target']['id']} ({order['status']})"
    try:
        agent: JsonObject = api.ask("GET", f"/agents/{order['agent_id']}").json()
    except CommsError as error:
        return f"{order['agent_id']} ({error.detail.rstrip('.')})"
    return f"{agent['name']} ({_state(agent)}, {order['status']})"


def _state(agent: JsonObject) -> str:
    if agent["is_blocked"]:
        return "blocked"
    return "online" if agent["status"] == "active" else f"offline: {agent['status'].replace('_', ' ')}"


waiting_option = click.option(
    "--wait",
    "is_waiting",
    is_flag=True,
    help="Show the progress until every order has ended; the exit code is the outcome, as in `commands wait`.",
)
