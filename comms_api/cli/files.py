"""`comms-api files`: show, compare and push the files of groups, and who runs them."""

import sys
from collections.abc import Sequence

import click

from comms_api.cli.shared.operator import JsonObject, Operator, operation, path_part
from comms_api.cli.shared.output import copy, print_fitting, print_json, print_table

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


@operation(files, "push")
@click.option("--agent", help="The agent, by id or name.")
@click.option("--group", help="All agents of this group.")
@click.option("--node", help="All agents that this node saw last.")
def push(operator: Operator, **options: str | None) -> None:
    """Have agents fetch their files again, even if they are in sync."""
    chosen = [(kind, name) for kind, name in options.items() if name is not None]
    if len(chosen) != 1:
        raise click.UsageError("name the agents by one of --agent, --group, --node")
    [(kind, name)] = chosen
    answer = operator.ask("POST", f"/{kind}s/{path_part(name)}/configuration/push").json()
    click.echo(f"{answer['agents']} agent(s) will fetch their files")


_GROUP = click.argument("group")
_FILE = click.argument("file")


@operation(files, "versions")
@_GROUP
@_FILE
@_AS_JSON
def versions(operator: Operator, *, group: str, file: str, as_json: bool) -> None:
    """List the versions of a file, newest first."""
    found = operator.ask("GET", f"{_path(group, file)}/versions").json()
    if as_json:
        print_json(found)
        return
    columns = ("version", "is_current", "size", "user", "created_at", "sha256")
    print_fitting(columns, [[one[column] for column in columns] for one in found])


@operation(files, "diff")
@_GROUP
@_FILE
@click.option("--old", type=int, required=True, help="Version to compare.")
@click.option("--new", type=int, help="Version to compare it with; by default the current one.")
def diff(operator: Operator, *, group: str, file: str, old: int, new: int | None) -> None:
    """Show the difference of two versions of a file."""
    query = {"old": old} | ({} if new is None else {"new": new})
    answer = operator.ask("GET", f"{_path(group, file)}/diff", params=query)
    copy([answer.content], sys.stdout.buffer)


@operation(files, "rollback")
@_GROUP
@_FILE
@click.argument("version", type=int)
def rollback(operator: Operator, *, group: str, file: str, version: int) -> None:
    """Make the content of an earlier version current again, as a new version."""
    stored = operator.ask("POST", f"{_path(group, file)}/rollback", json={"version": version}).json()
    click.echo(f"version {stored['version']} is current")


def _path(group: str, file: str) -> str:
    return f"/groups/{path_part(group)}/files/{path_part(file)}"
