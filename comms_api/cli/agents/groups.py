"""`comms-api groups`: the groups of agents."""

import click

from comms_api.cli.shared.operation import NOUN, Listing, operation, path_part
from comms_api.cli.shared.output import JsonObject
from comms_api.cli.shared.views import Columns, second, sentence, table
from comms_api.management_client.client import ManagementClient


@click.group(context_settings=NOUN)
def groups() -> None:
    """Show, create and delete groups, and change their members."""


_COLUMNS: Columns = {"name": "name", "precedence": "precedence", "agents": "agents"}
_WIDE: Columns = {"created": lambda group: second(group["created_at"])}
_NAME = click.argument("name")
_AGENTS = click.argument("agents", nargs=-1, required=True)
_PRECEDENCE = click.IntRange(-1_000, 1_000)
_PRECEDENCE_HELP = "The group with the highest precedence wins where files conflict."


@operation(groups, "list", table(_COLUMNS, _WIDE), is_list=True, is_watchable=True)
def list_groups(_api: ManagementClient) -> Listing:
    """List the groups by name, each with its number of agents."""
    return Listing("/groups", {})


@operation(groups, "create", sentence("the group {name} is created"))
@_NAME
@click.option("--precedence", type=_PRECEDENCE, default=0, help=_PRECEDENCE_HELP)
def create(api: ManagementClient, name: str, precedence: int) -> JsonObject:
    """Create an empty group."""
    return api.call(dict, "POST", "/groups", {"name": name, "precedence": precedence})


@operation(groups, "change", sentence("the group {name} has the precedence {precedence}"))
@_NAME
@click.option("--precedence", type=_PRECEDENCE, required=True, help=_PRECEDENCE_HELP)
def change(api: ManagementClient, name: str, precedence: int) -> JsonObject:
    """Set the precedence of a group."""
    api.ask("PATCH", _path(name), json={"precedence": precedence})
    return {"name": name, "precedence": precedence}


@operation(groups, "delete", sentence("the group {name} is deleted; its agents stay enrolled"))
@_NAME
@click.confirmation_option(prompt="Delete the group and its files?", help="Do not ask.")
def delete(api: ManagementClient, name: str) -> JsonObject:
    """Delete a group and its files; its agents stay enrolled."""
    api.ask("DELETE", _path(name))
    return {"name": name}


@operation(groups, "add", sentence("{added} agent(s) added to {name}"))
@_NAME
@_AGENTS
def add(api: ManagementClient, name: str, agents: tuple[str, ...]) -> JsonObject:
    """Add agents, by id or name, to a group: all or none.

    Agents that are members already are not counted. `comms-api agents list --group` lists the members.
    """
    return {"name": name, **api.call(dict, "POST", f"{_path(name)}/agents", {"agents": agents})}


@operation(groups, "remove", sentence("{removed} agent(s) removed from {name}"))
@_NAME
@_AGENTS
def remove(api: ManagementClient, name: str, agents: tuple[str, ...]) -> JsonObject:
    """Remove agents, by id or name, from a group, one by one."""
    for agent in agents:
        api.ask("DELETE", f"{_path(name)}/agents/{path_part(agent)}")
    return {"name": name, "removed": len(agents)}


def _path(name: str) -> str:
    return f"/groups/{path_part(name)}"
