"""`comms-api agents`: show, block and delete agents."""

from typing import Any

import click

from comms_api.cli.agents.keys import enroll, rotate_key
from comms_api.cli.agents.naming import AGENT, path_of
from comms_api.cli.agents.why import explain
from comms_api.cli.shared.labels import read_labels
from comms_api.cli.shared.operation import NOUN, Listing, operation, present
from comms_api.cli.shared.output import JsonObject
from comms_api.cli.shared.views import Columns, describe, fields, second, sentence, table
from comms_api.management_client.client import ManagementClient


@click.group(context_settings=NOUN)
def agents() -> None:
    """Show, enroll, block and delete agents."""


agents.add_command(enroll)
agents.add_command(rotate_key)
agents.add_command(explain)

_COLUMNS: Columns = {
    "name": "name",
    "id": "id",
    "status": lambda agent: "blocked" if agent["is_blocked"] else agent["status"],
    "groups": "groups",
    "version": "version",
    "last seen": lambda agent: second(agent["last_seen_at"]),
}
_WIDE: Columns = {
    "address": "remote_address",
    "node": "node",
    "system": lambda agent: describe(agent["host"].get("os", {}).get("name")),
    "labels": "labels",
}


@operation(agents, "list", table(_COLUMNS, _WIDE), is_list=True, is_watchable=True)
@click.option("--name", help="Only agents with this name; * matches any text.")
@click.option("--group", help="Only members of this group.")
@click.option("--status", type=click.Choice(["active", "disconnected", "never_connected"]), help="Only this status.")
@click.option("--os", help="Only agents with this system, by name or type; * matches any text.")
@click.option("--version", help="Only agents of this version; * matches any text.")
@click.option("--label", multiple=True, metavar="KEY:VALUE", help="Only agents with this label; may be repeated.")
@click.option("--in-sync/--not-in-sync", default=None, help="Only agents that run their files, or that do not.")
@click.option("--node", help="Only agents that this node saw last.")
@click.option("--hidden", is_flag=True, help="Only agents that are hidden because of their long silence.")
@click.option("--clones", type=click.Choice(["proved", "suspected"]), help="Only agents that clones may use.")
def list_agents(_api: ManagementClient, **filters: Any) -> Listing:
    """List agents by id."""
    return Listing("/agents", present(filters))


@operation(agents, "show", fields, is_watchable=True)
@AGENT
def show(api: ManagementClient, agent: str) -> JsonObject:
    """Show an agent."""
    return api.call(dict, "GET", path_of(agent))


@operation(agents, "block", sentence("{name} is blocked, and its tokens are revoked"))
@AGENT
def block(api: ManagementClient, agent: str) -> JsonObject:
    """Refuse an agent, and revoke its tokens."""
    return api.call(dict, "PATCH", path_of(agent), {"is_blocked": True})


@operation(agents, "unblock", sentence("{name} may log in again"))
@AGENT
def unblock(api: ManagementClient, agent: str) -> JsonObject:
    """Let a blocked agent log in again."""
    return api.call(dict, "PATCH", path_of(agent), {"is_blocked": False})


@operation(agents, "delete", sentence("{name} ({id}) is deleted"))
@AGENT
@click.confirmation_option(prompt="Delete the agent?", help="Do not ask.")
def delete(api: ManagementClient, agent: str) -> JsonObject:
    """Delete an agent and its states, and revoke its tokens; its events and ended orders stay."""
    found = api.call(dict, "GET", path_of(agent))
    api.ask("DELETE", path_of(found["id"]))
    return {"id": found["id"], "name": found["name"]}


def _show_labels(agent: JsonObject) -> None:
    fields(agent["labels"])


@operation(agents, "label", _show_labels)
@AGENT
@click.argument("labels", nargs=-1, metavar="[KEY:VALUE]...")
@click.option("--remove", multiple=True, metavar="KEY", help="Remove this label; may be repeated.")
def label(api: ManagementClient, agent: str, labels: tuple[str, ...], remove: tuple[str, ...]) -> JsonObject:
    """Set and remove labels of an agent, and show its labels.

    Other labels stay. If somebody else changes the labels at the same time, one of the changes may be lost.
    """
    found = api.call(dict, "GET", path_of(agent))
    new = {key: value for key, value in found["labels"].items() if key not in remove} | read_labels(labels)
    if new != found["labels"]:
        found = api.call(dict, "PATCH", path_of(found["id"]), {"labels": new})
    return {"id": found["id"], "name": found["name"], "labels": found["labels"]}
