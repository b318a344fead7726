"""`comms-api quarantine`: the lines that could not be stored as events."""

from typing import Any

import click

from comms_api.cli.shared.operation import NOUN, Listing, operation, present
from comms_api.cli.shared.periods import period_and_order_options
from comms_api.cli.shared.views import Columns, second, table
from comms_api.management_client.client import ManagementClient


@click.group(context_settings=NOUN)
def quarantine() -> None:
    """Show the lines of agents that could not be stored as events."""


_COLUMNS: Columns = {
    "received": lambda line: second(line["received_at"]),
    "agent": "agent_id",
    "bytes": "line_bytes",
    "reason": "reason",
}
_WIDE: Columns = {"line": "line"}


@operation(quarantine, "list", table(_COLUMNS, _WIDE), is_list=True, is_watchable=True)
@click.option("--agent", "agent_id", help="Only lines of this agent, by id or name.")
@period_and_order_options
def list_quarantine(_api: ManagementClient, **filters: Any) -> Listing:
    """List the lines, and why each could not be stored."""
    return Listing("/events/quarantine", present(filters))
