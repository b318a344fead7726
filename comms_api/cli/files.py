"""`comms-api files`: show, compare and push the files of groups, and who runs them."""

import sys
from collections.abc import Sequence
from typing import BinaryIO

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
@click.option(
    "--staged", metavar="FILE", help="Only agents of the group that are chosen for this file's staged version."
)
@_AS_JSON
def drift(operator: Operator, *, group: str | None, as_json: bool, **filters: str | None) -> None:
    """Count the agents of each group that run its files, or list the agents of one group."""
    selected = {name: value for name, value in filters.items() if value is not None}
    if group is None:
        if selected:
            raise click.UsageError(f"--{next(iter(selected))} needs a GROUP")
        columns: Sequence[str] = ("group", "agents", *STATUSES)
        found = [_count(operator, listed["name"]) for listed in operator.pages("/groups", {"limit": 1000})]
    else:
        columns = AGENT_COLUMNS
        found = list(operator.pages(f"/groups/{path_part(group)}/configuration/agents", {"limit": 1000} | selected))
    if as_json:
        print_json(found)
    elif group is None:
        print_table(columns, [[one[column] for column in columns] for one in found])
    else:
        print_fitting(columns, [[_shown(one[column]) for column in columns] for one in found])


def _count(operator: Operator, group: str) -> JsonObject:
    counts: JsonObject = operator.ask("GET", f"/groups/{path_part(group)}/configuration").json()
    return counts


def _shown(value: object) -> object:
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
PERCENT = click.IntRange(1, 100)
_PERCENT = click.option("--percent", type=PERCENT, help="Stage the version for this part of the agents first.")


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
    columns = ("version", "is_current", "staged_percent", "size", "user", "created_at", "sha256")
    print_fitting(columns, [[_shown(one[column]) for column in columns] for one in found])


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
@_PERCENT
def rollback(operator: Operator, *, group: str, file: str, version: int, percent: int | None) -> None:
    """Make the content of an earlier version current again, as a new version."""
    body = {"version": version, "percent": percent}
    _print_version(operator.ask("POST", f"{_path(group, file)}/rollback", json=body).json())


@operation(files, "publish")
@_GROUP
@_FILE
@click.argument("source", type=click.File("rb"))
@_PERCENT
def publish(operator: Operator, *, group: str, file: str, source: BinaryIO, percent: int | None) -> None:
    """Store the content of SOURCE, or of standard input for -, as the next version of a file."""
    query = {} if percent is None else {"percent": percent}
    _print_version(operator.ask("PUT", _path(group, file), params=query, content=source.read()).json())


@operation(files, "stage")
@_GROUP
@_FILE
@click.option("--percent", type=PERCENT, help="Give the staged version to this larger part of the agents first.")
@_AS_JSON
def stage(operator: Operator, *, group: str, file: str, percent: int | None, as_json: bool) -> None:
    """Show the staged version of a file and how many of the chosen agents run it."""
    path = f"{_path(group, file)}/stage"
    found = (operator.ask("PATCH", path, json={"percent": percent}) if percent else operator.ask("GET", path)).json()
    if as_json:
        print_json(found)
        return
    columns = ("version", "percent", "agents", *STATUSES)
    print_table(columns, [[found[column] for column in columns]])


@operation(files, "promote")
@_GROUP
@_FILE
def promote(operator: Operator, *, group: str, file: str) -> None:
    """Make the staged version of a file current for all agents of the group."""
    _print_version(operator.ask("POST", f"{_path(group, file)}/stage/promote").json())


@operation(files, "abort")
@_GROUP
@_FILE
def abort(operator: Operator, *, group: str, file: str) -> None:
    """Give all agents the current version of a file again, instead of the staged one."""
    operator.ask("DELETE", f"{_path(group, file)}/stage")
    click.echo("no version is staged")


def _print_version(stored: JsonObject) -> None:
    percent = stored["staged_percent"]
    click.echo(f"version {stored['version']} is {'current' if percent is None else f'staged for {percent} %'}")


def _path(group: str, file: str) -> str:
    return f"/groups/{path_part(group)}/files/{path_part(file)}"
