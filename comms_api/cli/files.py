"""`comms-api files`: show which agents run the files of their groups."""

from collections.abc import Sequence

import click

from comms_api.cli.operator import JsonObject, Operator, operation, path_part
from comms_api.cli.output import print_fitting, print_json, print_table

STATUSES = ("in_sync", "pending", "failed")
AGENT_COLUMNS = ("agent_id", "name", "status", "fetched_at", "reported_at")


@click.group(context_settings={"auto_envvar_prefix": "COMMS_CLI", "show_default": True})
def files() -> None:
    """Show and change the files of groups."""


_AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


@operation(files, "drift")
@click.argument("group", required=False)
@click.option("--status", type=click.Choice(STATUSES), help="Only agents of the group with this status.")
@_AS_JSON
def drift(operator: Operator, *, group: str | None, status: str | None, as_json: bool) -> None:
    """Count the agents of each group that run its files, or list the agents of one group."""
    if group is None:
        if status is not None:
            raise click.UsageError("--status needs a GROUP")
        columns: Sequence[str] = ("group", "agents", *STATUSES)
        found = [_count(operator, listed["name"]) for listed in operator.pages("/groups", {"limit": 1000})]
    else:
        columns = AGENT_COLUMNS
        query = {"limit": 1000} | ({"status": status} if status else {})
        found = list(operator.pages(f"/groups/{path_part(group)}/configuration/agents", query))
    if as_json:
        print_json(found)
    elif group is None:
        print_table(columns, [[one[column] for column in columns] for one in found])
    else:
        print_fitting(columns, [[_shown(one[column]) for column in columns] for one in found])


def _count(operator: Operator, group: str) -> JsonObject:
    counts: JsonObject = operator.ask("GET", f"/groups/{path_part(group)}/configuration").json()
    return counts


def _shown(value: str | None) -> str:
    return "-" if value is None else value
