"""`comms-api cluster`: show the nodes and their problems, and move agents between nodes."""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial

import click

from comms_api.cli.shared.operation import NOUN, Outcome, operation, path_part, present
from comms_api.cli.shared.output import JsonObject, say
from comms_api.cli.shared.views import Columns, sentence, table
from comms_api.cluster.model import SKEW_SECONDS_MAXIMUM
from comms_api.errors import CommsError
from comms_api.management_client.client import ManagementClient

RETRY_SECONDS = 1.0
AGREEMENT_SECONDS = 6.0
"""Nodes may differ for this long before it is reported: each serves a change from its next heartbeat on."""

WAIT_SECONDS = 60.0
_DIFFERENCE = "nodes serve different"

Nodes = Sequence[JsonObject]


@click.group(context_settings=NOUN)
def cluster() -> None:
    """Show the nodes, and move agents between them."""


_NAME = click.argument("name")


def _nodes(api: ManagementClient) -> Nodes:
    nodes: Nodes = api.ask("GET", "/nodes").json()
    return nodes


def _title(node: JsonObject) -> str:
    return f"{node['name']}/{node['worker']}"


def _state(node: JsonObject) -> str:
    state: str = node["state"]
    return state if state in {"lost", node["wanted_state"]} else f"{state}, soon {node['wanted_state']}"


_COLUMNS: Columns = {
    "node": _title,
    "state": _state,
    "version": "version",
    "polls": "polls",
    "req/s": "requests_per_second",
    "lag s": "lag_seconds",
    "skew s": "skew_seconds",
    "silent s": "silent_seconds",
    "agents at": "agent_url",
}


@operation(cluster, "nodes", table(_COLUMNS, {"management at": "management_url"}), is_watchable=True)
def nodes(api: ManagementClient) -> Nodes:
    """List the processes of all nodes with their state and load."""
    return _nodes(api)


_CLONES = ("id", "name", "cloned_at", "poll_address", "displaced_poll_address", "displaced_polls")
_SEEN = ("id", "name", "remote_address", "last_seen_at")


@operation(cluster, "agents", table({"node": "node", "agents": "agents"}))
@click.option("--node", help="List the agents of this node.")
@click.option("--clones", is_flag=True, help="List the agents whose identity several hosts may use.")
def agents(api: ManagementClient, *, node: str | None, clones: bool) -> Outcome:
    """Count the active agents by node, list the agents of one node, or list possible clones.

    An agent belongs to the node that saw it last.
    """
    if node is None and not clones:
        return Outcome(api.ask("GET", "/nodes/agents").json())
    columns, narrowed = (_CLONES, {"clones": "suspected"}) if clones else (_SEEN, {"status": "active"})
    query = {"limit": 1000, **narrowed, **present({"node": node})}
    return Outcome(api.pages("/agents", query), view=table({name: name for name in columns}))


def _list_problems(otherwise: str, found: JsonObject) -> None:
    for line in found["problems"] or [otherwise]:
        say(line)


@operation(cluster, "health", partial(_list_problems, "all is well"), is_watchable=True)
def health(api: ManagementClient) -> Outcome:
    """List the problems of all nodes.

    The exit code is 1 if there are any.
    """
    problems = _settled(api, _problems)
    return Outcome({"is_healthy": not problems, "problems": problems}, bool(problems))


def _settled(api: ManagementClient, find: Callable[[Nodes], list[str]]) -> list[str]:
    """Return the problems; if they are only differences, wait for the next heartbeats, which may resolve them."""
    deadline = time.monotonic() + AGREEMENT_SECONDS
    while (problems := find(_nodes(api))) and time.monotonic() < deadline:
        if any(_DIFFERENCE not in problem for problem in problems):
            break
        time.sleep(RETRY_SECONDS)
    return problems


def _problems(found: Nodes) -> list[str]:
    idle = [] if any(node["state"] == "active" for node in found) else ["no node accepts agents: none is active"]
    of_each = [problem for node in found for problem in _problems_of(node)]
    return [*idle, *of_each, *_clashes(found), *_differences(found)]


def _problems_of(node: JsonObject) -> list[str]:
    if node["state"] == "lost":
        return [f"{_title(node)} is lost: silent for {node['silent_seconds']:g} s"]
    late = [f"{_title(node)}: late by {node['lag_seconds']:g} s: {', '.join(node['late'])}"] if node["late"] else []
    is_skewed = abs(node["skew_seconds"]) > SKEW_SECONDS_MAXIMUM
    skewed = [f"{_title(node)}: the clock is {node['skew_seconds']:+g} s off the database's"] if is_skewed else []
    return late + skewed


def _clashes(found: Nodes) -> list[str]:
    urls: dict[str, set[str]] = defaultdict(set)
    for node in _live(found):
        urls[node["name"]].add(node["agent_url"])
    return [f"{name} is the name of several nodes: {', '.join(sorted(at))}" for name, at in urls.items() if len(at) > 1]


def _live(found: Nodes) -> Nodes:
    return [node for node in found if node["state"] != "lost"]


def _differences(found: Nodes) -> list[str]:
    served = (("signing keys", "key_ids"), ("group files", "files_sha256"))
    return [f"{_DIFFERENCE} {name}" for name, member in served if len({str(node[member]) for node in _live(found)}) > 1]


def _compare_files(found: JsonObject) -> None:
    columns: Columns = {
        "node": _title,
        "group files": lambda node: node["files_sha256"][:16],
        "signing keys": lambda node: " ".join(node["key_ids"]),
    }
    table(columns)(found["nodes"])
    _list_problems("all the same", found)


@operation(cluster, "files", _compare_files)
def files(api: ManagementClient) -> Outcome:
    """Compare the group files and signing keys of all nodes.

    The exit code is 1 if they differ.
    """
    problems = _settled(api, _differences)
    members = ("name", "worker", "files_sha256", "key_ids")
    found = [{member: node[member] for member in members} for node in _live(_nodes(api))]
    return Outcome({"is_same": not problems, "problems": problems, "nodes": found}, bool(problems))


_REQUESTED = sentence("{name}: requested state {wanted_state}")


@operation(cluster, "drain", _REQUESTED)
@_NAME
@click.option("--wait", "is_waiting", is_flag=True, help="Wait until the node holds no poll.")
def drain(api: ManagementClient, *, name: str, is_waiting: bool) -> Outcome:
    """Make a node send its agents to other nodes, before maintenance.

    The node still serves the requests that it receives.
    """
    return Outcome(_ask_of(api, name, "drain"), then=partial(_wait_until_drained, api, name) if is_waiting else None)


@operation(cluster, "resume", _REQUESTED)
@_NAME
def resume(api: ManagementClient, *, name: str) -> JsonObject:
    """Make a drained node accept agents again."""
    return _ask_of(api, name, "resume")


def _ask_of(api: ManagementClient, name: str, verb: str) -> JsonObject:
    answer: JsonObject = api.ask("POST", f"/nodes/{path_part(name)}/{verb}").json()
    return answer


def _wait_until_drained(api: ManagementClient, name: str) -> int:
    deadline = time.monotonic() + WAIT_SECONDS
    while any(_may_hold_polls(node) for node in _nodes(api) if node["name"] == name):
        if time.monotonic() > deadline:
            raise CommsError(f"{name} still holds polls after {WAIT_SECONDS:g} seconds")
        time.sleep(RETRY_SECONDS)
    return 0


def _may_hold_polls(node: JsonObject) -> bool:
    if node["state"] == "lost":
        raise CommsError(f"{_title(node)} is lost, so the number of its polls is unknown")
    return bool(node["state"] == "active" or node["polls"])


@operation(cluster, "forget", sentence("{name} is removed from the list"))
@_NAME
def forget(api: ManagementClient, *, name: str) -> JsonObject:
    """Remove a lost node from the list now, instead of after an hour."""
    return _ask_of(api, name, "forget")


def _show_crowded(crowded: Nodes) -> None:
    for node in crowded:
        say(f"{_title(node)}: from {node['polls']} polls to {node['wanted_polls']}")
    if not crowded:
        say("no node is crowded")


@operation(cluster, "rebalance", _show_crowded)
def rebalance(api: ManagementClient) -> Nodes:
    """Make crowded nodes redirect some of their agents.

    A node is crowded if it holds over 10 % more polls than the mean. It redirects a few agents per second.
    """
    crowded: Nodes = api.ask("POST", "/nodes/rebalance").json()
    return crowded
