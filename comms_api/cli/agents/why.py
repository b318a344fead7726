"""`comms-api agents why`: what an agent waits for, and why."""

import click

from comms_api.cli.agents.naming import AGENT, path_of
from comms_api.cli.shared.operation import operation
from comms_api.cli.shared.output import JsonObject, say
from comms_api.cli.shared.views import Columns, second, table
from comms_api.management_client.client import ManagementClient

_POLLS = {
    "held": "held",
    "possible": "began at {polled_at}, and may be held by another process",
    "none": "none is held",
}
_ORDERS: Columns = {
    "order": "order_id",
    "action": "action",
    "reason": "reason",
    "offers": "attempt",
    "next offer": lambda order: second(order["offer_at"]),
    "expires": lambda order: second(order["expires_at"]),
}
_WIDE: Columns = {"command": "request_id", "priority": "priority"}


def _show(found: JsonObject) -> None:
    agent = found["agent"]
    say(f"{agent['name']} ({agent['id']})")
    lines = {
        "status": "blocked" if agent["is_blocked"] else agent["status"],
        "last seen": f"{second(agent['last_seen_at'])} by {agent['node'] or '-'} from {agent['remote_address'] or '-'}",
        "last login": second(agent["last_login_at"]),
        "poll": _POLLS[found["poll"]].format(polled_at=second(agent["polled_at"])),
        "files": found["configuration"],
    }
    for name, value in lines.items():
        say(f"{name:10}  {value}")
    click.echo()
    for finding in found["findings"]:
        say(f"- {finding}")
    if found["orders"]:
        click.echo()
        table(_ORDERS, _WIDE)(found["orders"])


@operation(None, "why", _show, is_watchable=True)
@AGENT
def explain(api: ManagementClient, agent: str) -> JsonObject:
    """Show what an agent waits for, and why."""
    return api.call(dict, "GET", f"{path_of(agent)}/diagnosis")
