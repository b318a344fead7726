"""`comms-api audit`: the audit trail."""

from typing import Any, BinaryIO

import click

from comms_api.cli.shared.operation import NOUN, Listing, operation, present
from comms_api.cli.shared.output import copy
from comms_api.cli.shared.periods import period_and_order_options, period_options
from comms_api.cli.shared.views import Columns, second, table
from comms_api.management_client.client import ManagementClient


@click.group(context_settings=NOUN)
def audit() -> None:
    """Show who changed what."""


_COLUMNS: Columns = {
    "at": lambda entry: second(entry["at"]),
    "actor": "actor",
    "operation": "operation",
    "subject": "subject",
    "key": "key",
}
_WIDE: Columns = {"address": "address", "before": "before", "after": "after"}


@operation(audit, "list", table(_COLUMNS, _WIDE), is_list=True, is_watchable=True)
@click.option("--actor", help="Only changes by this user.")
@click.option("--subject", help="Only changes of this table, such as agents.")
@click.option("--key", help="Only changes of the row with this key.")
@period_and_order_options
def list_audit(_api: ManagementClient, **filters: Any) -> Listing:
    """List changes."""
    return Listing("/audit", present(filters))


@operation(audit, "export", None)
@period_options
@click.option("--output", type=click.File("wb"), default="-", help="File to write; by default standard output.")
def export(api: ManagementClient, *, output: BinaryIO, **period: Any) -> None:
    """Fetch the whole trail, or a period of it, as lines of JSON."""
    with api.stream("/audit/export", params=present(period)) as answer:
        copy(answer.iter_bytes(), output)
