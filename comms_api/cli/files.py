"""`comms-api files`: show, compare and push the files of groups, and who runs them."""

import sys
from typing import BinaryIO

import click

from comms_api.cli.shared.operation import NOUN, Outcome, operation, path_part, present
from comms_api.cli.shared.output import JsonObject, copy, say
from comms_api.cli.shared.views import sentence, table
from comms_api.management_client.client import ManagementClient

STATUSES = ("in_sync", "pending", "failed")
_OF_GROUPS = ("group", "agents", *STATUSES)
_OF_AGENTS = ("agent_id", "name", "status", "fetched_at", "reported_at")
_FILES = ("name", "version", "size", "user", "created_at", "sha256")
_VERSIONS = ("version", "is_current", "staged_percent", "size", "user", "created_at", "sha256")
_STAGED = ("version", "percent", "agents", *STATUSES)


@click.group(context_settings=NOUN)
def files() -> None:
    """Show and change the files of groups."""


@operation(files, "drift", table({name: name for name in _OF_GROUPS}), is_watchable=True)
@click.argument("group", required=False)
@click.option("--status", type=click.Choice(STATUSES), help="Only agents of the group with this status.")
@click.option(
    "--staged", metavar="FILE", help="Only agents of the group that are chosen for this file's staged version."
)
def drift(api: ManagementClient, *, group: str | None, **filters: str | None) -> Outcome:
    """Count the agents of each group that run its files, or list the agents of one group."""
    selected = present(filters)
    if group is not None:
        found = api.pages(f"/groups/{path_part(group)}/configuration/agents", {"limit": 1000, **selected})
        return Outcome(found, view=table({name: name for name in _OF_AGENTS}))
    if selected:
        raise click.UsageError(f"--{next(iter(selected))} needs a GROUP")
    groups = api.pages("/groups", {"limit": 1000})
    return Outcome([api.ask("GET", f"/groups/{path_part(one['name'])}/configuration").json() for one in groups])


@operation(files, "push", sentence("{agents} agent(s) will fetch their files"))
@click.option("--agent", help="The agent, by id or name.")
@click.option("--group", help="All agents of this group.")
@click.option("--node", help="All agents that this node saw last.")
def push(api: ManagementClient, **options: str | None) -> JsonObject:
    """Have agents fetch their files again, even if they are in sync."""
    chosen = [(kind, name) for kind, name in options.items() if name is not None]
    if len(chosen) != 1:
        raise click.UsageError("name the agents by one of --agent, --group, --node")
    [(kind, name)] = chosen
    return api.call(dict, "POST", f"/{kind}s/{path_part(name)}/configuration/push")


_GROUP = click.argument("group")
_FILE = click.argument("file")
PERCENT = click.IntRange(1, 100)
_PERCENT = click.option("--percent", type=PERCENT, help="Stage the version for this part of the agents first.")


def _show_version(stored: JsonObject) -> None:
    percent = stored["staged_percent"]
    say(f"version {stored['version']} is {'current' if percent is None else f'staged for {percent} %'}")


@operation(files, "list", table({name: name for name in _FILES}))
@_GROUP
def list_files(api: ManagementClient, *, group: str) -> list[JsonObject]:
    """List the current files of a group by name."""
    return api.call(list, "GET", f"/groups/{path_part(group)}/files")


@operation(files, "get", None)
@_GROUP
@_FILE
@click.option("--version", type=int, help="Version to fetch; by default the current one.")
@click.option("--output", type=click.File("wb"), default="-", help="File to write; by default standard output.")
def get(api: ManagementClient, *, group: str, file: str, version: int | None, output: BinaryIO) -> None:
    """Fetch the content of a file."""
    answer = api.ask("GET", _path(group, file), params=present({"version": version}))
    copy([answer.content], output)


@operation(files, "delete", sentence("the file {name} is deleted from {group}; its versions stay"))
@_GROUP
@_FILE
@click.confirmation_option(prompt="Delete the file?", help="Do not ask.")
def delete(api: ManagementClient, *, group: str, file: str) -> JsonObject:
    """Delete a file from a group; its versions stay."""
    api.ask("DELETE", _path(group, file))
    return {"group": group, "name": file}


@operation(files, "versions", table({name: name for name in _VERSIONS}))
@_GROUP
@_FILE
def versions(api: ManagementClient, *, group: str, file: str) -> list[JsonObject]:
    """List the versions of a file, newest first."""
    return api.call(list, "GET", f"{_path(group, file)}/versions")


@operation(files, "diff", lambda found: copy([found["diff"].encode()], sys.stdout.buffer))
@_GROUP
@_FILE
@click.option("--old", type=int, required=True, help="Version to compare.")
@click.option("--new", type=int, help="Version to compare it with; by default the current one.")
def diff(api: ManagementClient, *, group: str, file: str, old: int, new: int | None) -> JsonObject:
    """Show the difference of two versions of a file."""
    query = {"old": old, **present({"new": new})}
    return {"diff": api.ask("GET", f"{_path(group, file)}/diff", params=query).content.decode()}


@operation(files, "rollback", _show_version)
@_GROUP
@_FILE
@click.argument("version", type=int)
@_PERCENT
def rollback(api: ManagementClient, *, group: str, file: str, version: int, percent: int | None) -> JsonObject:
    """Make the content of an earlier version current again, as a new version."""
    body = {"version": version, "percent": percent}
    return api.call(dict, "POST", f"{_path(group, file)}/rollback", body)


@operation(files, "put", _show_version)
@_GROUP
@_FILE
@click.argument("source", type=click.File("rb"))
@_PERCENT
def put(api: ManagementClient, *, group: str, file: str, source: BinaryIO, percent: int | None) -> JsonObject:
    """Store the content of SOURCE, or of standard input for -, as the next version of a file."""
    query = present({"percent": percent})
    stored: JsonObject = api.ask("PUT", _path(group, file), params=query, content=source.read()).json()
    return stored


@operation(files, "stage", lambda found: table({name: name for name in _STAGED})([found]), is_watchable=True)
@_GROUP
@_FILE
@click.option("--percent", type=PERCENT, help="Give the staged version to this larger part of the agents first.")
def stage(api: ManagementClient, *, group: str, file: str, percent: int | None) -> JsonObject:
    """Show the staged version of a file and how many of the chosen agents run it."""
    path = f"{_path(group, file)}/stage"
    return api.call(dict, "PATCH", path, {"percent": percent}) if percent else api.call(dict, "GET", path)


@operation(files, "promote", _show_version)
@_GROUP
@_FILE
def promote(api: ManagementClient, *, group: str, file: str) -> JsonObject:
    """Make the staged version of a file current for all agents of the group."""
    return api.call(dict, "POST", f"{_path(group, file)}/stage/promote")


@operation(files, "abort", sentence("no version is staged"))
@_GROUP
@_FILE
def abort(api: ManagementClient, *, group: str, file: str) -> JsonObject:
    """Give all agents the current version of a file again, instead of the staged one."""
    api.ask("DELETE", f"{_path(group, file)}/stage")
    return {"group": group, "name": file}


def _path(group: str, file: str) -> str:
    return f"/groups/{path_part(group)}/files/{path_part(file)}"
