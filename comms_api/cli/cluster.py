"""`comms-api cluster`: show the nodes and their problems, and move agents between nodes."""

import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence

import click

from comms_api.cli.shared.operator import JsonObject, Operator, operation, path_part
from comms_api.cli.shared.output import print_json, print_table, say
from comms_api.errors import CommsError

SKEW_SECONDS_MAXIMUM = 1.0
RETRY_SECONDS = 1.0
AGREEMENT_SECONDS = 6.0
"""Nodes may differ for this long before it is reported: each serves a change from its next heartbeat on."""

WAIT_SECONDS = 60.0
_DIFFERENCE = "nodes serve different"

Nodes = Sequence[JsonObject]


@click.group(context_settings={"auto_envvar_prefix": "COMMS_CLI", "show_default": True})
def cluster() -> None:
    """Show the nodes, and move agents between them."""


_AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
_NAME = click.argument("name")


def _nodes(operator: Operator) -> Nodes:
    nodes: Nodes = operator.ask("GET", "/nodes").json()
    return nodes


def _say_all(problems: Sequence[str], otherwise: str) -> None:
    for line in problems or [otherwise]:
        say(line)


def _title(node: JsonObject) -> str:
    return f"{node['name']}/{node['worker']}"


def _state(node: JsonObject) -> str:
    state: str = node["state"]
    return state if state in {"lost", node["wanted_state"]} else f"{state}, soon {node['wanted_state']}"


@operation(cluster, "nodes")
@_AS_JSON
def nodes(operator: Operator, *, as_json: bool) -> None:
    """List the processes of all nodes with their state and load."""
    found = _nodes(operator)
    if as_json:
        print_json(found)
        return
    columns = ("node", "state", "version", "polls", "req/s", "lag s", "skew s", "silent s", "agents at")
    figures = ("version", "polls", "requests_per_second", "lag_seconds", "skew_seconds", "silent_seconds", "agent_url")
    print_table(columns, [(_title(node), _state(node), *(node[name] for name in figures)) for node in found])


@operation(cluster, "agents")
@click.option("--node", "name", help="List the agents of this node.")
@click.option("--clones", is_flag=True, help="List the agents whose identity several hosts may use.")
@_AS_JSON
def agents(operator: Operator, *, name: str | None, clones: bool, as_json: bool) -> None:
    """Count the active agents by node, list the agents of one node, or list possible clones.

    An agent belongs to the node that saw it last.
    """
    if clones:
        columns: Sequence[str] = (
            "id",
            "name",
            "cloned_at",
            "poll_address",
            "displaced_poll_address",
            "displaced_polls",
        )
        query = {"clones": "suspected", "limit": 1000} | ({} if name is None else {"node": name})
        found = list(operator.pages("/agents", query))
    elif name is None:
        columns = ("node", "agents")
        found = operator.ask("GET", "/nodes/agents").json()
    else:
        columns = ("id", "name", "remote_address", "last_seen_at")
        found = list(operator.pages("/agents", {"node": name, "status": "active", "limit": 1000}))
    if as_json:
        print_json(found)
    else:
        print_table(columns, [[row[column] for column in columns] for row in found])


@operation(cluster, "health")
@_AS_JSON
def health(operator: Operator, *, as_json: bool) -> None:
    """List the problems of all nodes.

    The exit code is 1 if there are any.
    """
    problems = _settled(operator, _problems)
    if as_json:
        print_json({"is_healthy": not problems, "problems": problems})
    else:
        _say_all(problems, "all is well")
    if problems:
        sys.exit(1)


def _settled(operator: Operator, find: Callable[[Nodes], list[str]]) -> list[str]:
    """Return the problems; if they are only differences, wait for the next heartbeats, which may resolve them."""
    deadline = time.monotonic() + AGREEMENT_SECONDS
    while (problems := find(_nodes(operator))) and time.monotonic() < deadline:
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


@operation(cluster, "files")
@_AS_JSON
def files(operator: Operator, *, as_json: bool) -> None:
    """Compare the group files and signing keys of all nodes.

    The exit code is 1 if they differ.
    """
    problems = _settled(operator, _differences)
    members = ("name", "worker", "files_sha256", "key_ids")
    found = [{member: node[member] for member in members} for node in _live(_nodes(operator))]
    if as_json:
        print_json({"is_same": not problems, "nodes": found})
    else:
        rows = [(_title(node), node["files_sha256"][:16], " ".join(node["key_ids"])) for node in found]
        print_table(("node", "group files", "signing keys"), rows)
        _say_all(problems, "all the same")
    if problems:
        sys.exit(1)


@operation(cluster, "drain")
@_NAME
@click.option("--wait", "is_waiting", is_flag=True, help="Wait until the node holds no poll.")
@_AS_JSON
def drain(operator: Operator, *, name: str, is_waiting: bool, as_json: bool) -> None:
    """Make a node send its agents to other nodes, before maintenance.

    The node still serves the requests that it receives.
    """
    _request_state(operator, name, "drain", as_json=as_json)
    if is_waiting:
        _wait_until_drained(operator, name)


@operation(cluster, "resume")
@_NAME
@_AS_JSON
def resume(operator: Operator, *, name: str, as_json: bool) -> None:
    """Make a drained node accept agents again."""
    _request_state(operator, name, "resume", as_json=as_json)


def _request_state(operator: Operator, name: str, verb: str, *, as_json: bool) -> None:
    node = _ask_of(operator, name, verb)
    if as_json:
        print_json(node)
    else:
        say(f"{node['name']}: requested state {node['wanted_state']}")


def _ask_of(operator: Operator, name: str, verb: str) -> JsonObject:
    answer: JsonObject = operator.ask("POST", f"/nodes/{path_part(name)}/{verb}").json()
    return answer


def _wait_until_drained(operator: Operator, name: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while any(_may_hold_polls(node) for node in _nodes(operator) if node["name"] == name):
        if time.monotonic() > deadline:
            raise CommsError(f"{name} still holds polls after {WAIT_SECONDS:g} seconds")
        time.sleep(RETRY_SECONDS)


def _may_hold_polls(node: JsonObject) -> bool:
    if node["state"] == "lost":
        raise CommsError(f"{_title(node)} is lost, so the number of its polls is unknown")
    return bool(node["state"] == "active" or node["polls"])


@operation(cluster, "forget")
@_NAME
@_AS_JSON
def forget(operator: Operator, *, name: str, as_json: bool) -> None:
    """Remove a lost node from the list now, instead of after an hour."""
    forgotten = _ask_of(operator, name, "forget")
    if as_json:
        print_json(forgotten)
    else:
        say(f"{forgotten['name']} is removed from the list")


@operation(cluster, "rebalance")
@_AS_JSON
def rebalance(operator: Operator, *, as_json: bool) -> None:
    """Make crowded nodes redirect some of their agents.

    A node is crowded if it holds over 10 % more polls than the mean. It redirects a few agents per second.
    """
    crowded = operator.ask("POST", "/nodes/rebalance").json()
    if as_json:
        print_json(crowded)
        return
    for node in crowded:
        say(f"{_title(node)}: from {node['polls']} polls to {node['wanted_polls']}")
    if not crowded:
        click.echo("no node is crowded")
