"""`comms-api states`: the states of agents."""

from typing import Any

import click

from comms_api.cli.shared.operation import NOUN, Listing, operation, present
from comms_api.cli.shared.views import Columns, second, table
from comms_api.management_client.client import ManagementClient


@click.group(context_settings=NOUN)
def states() -> None:
    """Show the states that agents report, such as inventories."""


_COLUMNS: Columns = {
    "agent": "agent_id",
    "module": "module",
    "collector": "collector",
    "id": "id",
    "updated": lambda state: second(state["updated_at"]),
}
_WIDE: Columns = {"data": "data"}


@operation(states, "list", table(_COLUMNS, _WIDE), is_list=True, is_watchable=True)
@click.option("--agent", "agent_id", help="Only states of this agent, by id or name.")
@click.option("--module", help="Only states of this module.")
def list_states(_api: ManagementClient, **filters: Any) -> Listing:
    """List states by agent, module, collector and id."""
    return Listing("/states", present(filters))
