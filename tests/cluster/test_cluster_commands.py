"""`comms-api cluster` as an operator runs it, with two real nodes."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.server import Server, running_server
from support.terminals import on_terminal
from support.waiting import PATIENCE, wait_until

Query = Callable[..., list[Any]]

COPY = """
    INSERT INTO nodes (id, name, worker, agent_url, management_url, boot_id, version, seen_at, {columns})
    SELECT uuid7(), '{name}', 0, 'https://ghost:1', 'https://ghost:2', '', version, now() + interval '{seen}', {values}
    FROM nodes WHERE name = 'left' RETURNING 1"""
LONG_NAME = "ghost-of-a-machine-with-a-long-name-17.eu-west.example.org"


@pytest.fixture(scope="module")
def nodes(folder: Path, database_url: str) -> Iterator[tuple[Server, Server]]:
    with (
        running_server(folder, database_url, node_name="left") as left,
        running_server(folder, database_url, node_name="right") as right,
    ):
        yield left, right


@pytest.fixture(scope="module")
def server(nodes: tuple[Server, Server]) -> Server:
    return nodes[0]


@pytest.fixture
def ghost(query: Query) -> Iterator[Callable[..., None]]:
    """Return a function that registers a node that does not run, with the left node's values in all other columns."""

    def register(seen: str = "1 hour", name: str = "ghost", **columns: str) -> None:
        values = {"key_ids": "key_ids", "files_sha256": "files_sha256"} | columns
        query(COPY.format(columns=", ".join(values), values=", ".join(values.values()), seen=seen, name=name))

    yield register
    query("DELETE FROM nodes WHERE name LIKE 'ghost%'")


class Terminal:
    """Runs the command line as the administrator."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def program(self, verb: str, *arguments: str) -> list[str]:
        options = ["--url", self._server.management_url, "--ca", str(self._server.folder / "certs" / "ca.pem")]
        options += ["--password-file", str(self._server.folder / "password")]
        return [sys.executable, "-m", "comms_api", "cluster", verb, *options, *arguments]

    def run(self, *arguments: str) -> tuple[int, str, str]:
        done = subprocess.run(self.program(*arguments), capture_output=True, text=True, timeout=PATIENCE, check=False)
        return done.returncode, done.stdout, done.stderr

    def succeed(self, *arguments: str) -> str:
        code, output, errors = self.run(*arguments)
        assert code == 0, output + errors
        return output

    def read(self, *arguments: str) -> Any:
        return json.loads(self.succeed(*arguments, "--json"))


@pytest.fixture(scope="module")
def terminal(server: Server) -> Terminal:
    return Terminal(server)


def test_nodes_and_the_agents_on_them_are_listed(
    nodes: tuple[Server, Server], management: httpx.Client, terminal: Terminal
) -> None:
    for number, server in enumerate((*nodes, nodes[1])):
        agent_id = server.enroll(management, f"on{number}")
        server.log_in(agent_id).get("/commands?wait=0")
    sightings = [{"node": "left", "agents": 1}, {"node": "right", "agents": 2}]
    wait_until(lambda: terminal.read("agents") == sightings)
    found = terminal.read("nodes")
    assert [(node["name"], node["state"]) for node in found] == [("left", "active"), ("right", "active")]
    table = terminal.succeed("nodes")
    assert all(word in table for word in ("left/0", "right/0", "active", nodes[1].agent_url, "skew"))
    assert "right" in terminal.succeed("agents")
    assert sorted(agent["name"] for agent in terminal.read("agents", "--node", "right")) == ["on1", "on2"]
    assert "on0" in terminal.succeed("agents", "--node", "left")
    assert terminal.read("agents", "--node", "nowhere") == []


def test_healthy_nodes_have_no_problems(terminal: Terminal) -> None:
    assert terminal.read("health") == {"is_healthy": True, "problems": []}
    assert terminal.succeed("health") == "all is well\n"


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"seen": "-2000 s"}, "ghost/0 is lost: silent for 2"),
        ({"skew_seconds": "-2.5"}, "ghost/0: the clock is -2.5 s off the database's"),
        ({"skew_seconds": "1.5"}, "ghost/0: the clock is +1.5 s off the database's"),
        (
            {"duties": """'{"expiry": {"silent_seconds": 30, "lag_seconds": 23}, "clock": {}}'"""},
            "ghost/0: late by 23 s: expiry",
        ),
        ({"key_ids": "'{other}'"}, "nodes serve different signing keys"),
        ({"files_sha256": "'other'"}, "nodes serve different group files"),
    ],
)
def test_health_lists_each_problem_and_fails(
    terminal: Terminal, ghost: Callable[..., None], columns: dict[str, str], problem: str
) -> None:
    ghost(**columns)
    code, output, _ = terminal.run("health", "--json")
    health = json.loads(output)
    assert (code, health["is_healthy"], len(health["problems"])) == (1, False, 1)
    assert health["problems"][0].startswith(problem)


def test_two_nodes_with_one_name_are_a_problem(terminal: Terminal, ghost: Callable[..., None], query: Query) -> None:
    ghost()
    query("UPDATE nodes SET name = 'left' WHERE name = 'ghost'")
    code, output, _ = terminal.run("health")
    query("UPDATE nodes SET name = 'ghost' WHERE agent_url = 'https://ghost:1'")
    assert code == 1
    assert "left is the name of several nodes: " in output


def test_every_node_serves_the_same_files_and_keys_soon_after_a_change(
    management: httpx.Client, terminal: Terminal, ghost: Callable[..., None]
) -> None:
    before = terminal.read("files")
    management.post("/groups", json={"name": "web"})
    assert management.put("/groups/web/files/web.yml", content=b"a: 1\n").status_code < 300
    wait_until(lambda: terminal.run("files")[0] == 0)
    after = terminal.read("files")
    assert (before["is_same"], after["is_same"]) == (True, True)
    hashes = [{node["files_sha256"] for node in files["nodes"]} for files in (before, after)]
    assert [len(distinct) for distinct in hashes] == [1, 1]
    assert "all the same" in terminal.succeed("files")
    ghost(files_sha256="'other'")
    code, output, _ = terminal.run("files")
    assert (code, "nodes serve different group files" in output) == (1, True)


def test_a_node_is_drained_and_resumed(nodes: tuple[Server, Server], terminal: Terminal) -> None:
    right = nodes[1].client(nodes[1].agent_url)
    assert terminal.read("drain", "right", "--wait") == {"name": "right", "wanted_state": "draining", "workers": 1}
    assert right.get("/ready").status_code == 503
    assert "draining" in terminal.succeed("nodes")
    assert terminal.succeed("health") == "all is well\n"
    assert terminal.succeed("resume", "right") == "right: requested state active\n"
    assert terminal.read("resume", "right")["wanted_state"] == "active"
    wait_until(lambda: terminal.read("nodes")[1]["state"] == "active")
    wait_until(lambda: right.get("/ready").status_code == 200)


def test_waiting_for_a_lost_node_to_drain_fails(terminal: Terminal, ghost: Callable[..., None]) -> None:
    ghost(seen="-20 s", polls="40")
    code, _, errors = terminal.run("drain", "ghost", "--wait")
    assert code == 1
    assert "ghost/0 is lost, so the number of its polls is unknown" in errors


def test_it_is_a_problem_if_no_node_accepts_agents(nodes: tuple[Server, Server], terminal: Terminal) -> None:
    for name in ("left", "right"):
        terminal.succeed("drain", name, "--wait")
    code, output, _ = terminal.run("health")
    for name in ("left", "right"):
        terminal.succeed("resume", name)
    assert (code, output) == (1, "no node accepts agents: none is active\n")
    wait_until(lambda: nodes[0].client(nodes[0].management_url).get("/ready").status_code == 200)
    assert terminal.succeed("health") == "all is well\n"


def test_an_administrator_can_forget_a_lost_node_but_no_live_one(
    nodes: tuple[Server, Server], management: httpx.Client, terminal: Terminal, ghost: Callable[..., None]
) -> None:
    ghost(seen="-20 s", name="ghost-forgotten")
    operator = nodes[0].user(management, "operator", "operator")
    assert operator.post("/nodes/ghost-forgotten/forget").status_code == 403
    assert terminal.read("forget", "ghost-forgotten") == {"name": "ghost-forgotten", "workers": 1}
    assert [node["name"] for node in terminal.read("nodes")] == ["left", "right"]
    [entry] = management.get("/audit", params={"subject": "nodes", "key": "ghost-forgotten/0"}).json()["items"]
    assert (entry["actor"], entry["operation"], entry["after"]) == ("admin", "delete", None)
    ghost(seen="-20 s", name="ghost-forgotten")
    assert terminal.succeed("forget", "ghost-forgotten") == "ghost-forgotten is removed from the list\n"
    assert management.post("/nodes/left/forget").status_code == 409
    code, _, errors = terminal.run("forget", "left")
    assert (code, "The node 'left' is not lost." in errors) == (1, True)


def test_a_table_is_not_truncated_in_a_pipe_or_a_narrow_terminal(
    terminal: Terminal, ghost: Callable[..., None]
) -> None:
    ghost(name=LONG_NAME)
    for table in (terminal.succeed("nodes"), on_terminal(terminal.program("nodes"), columns=80)):
        assert f"{LONG_NAME}/0" in table
        assert "https://ghost:1" in table
        assert "\u2026" not in table


def test_nodes_with_even_loads_are_not_rebalanced(terminal: Terminal) -> None:
    assert terminal.read("rebalance") == []
    assert terminal.succeed("rebalance") == "no node is crowded\n"


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (("drain", "nowhere"), 1, "There is no node 'nowhere'."),
        (("resume", "../users"), 1, ""),
        (("forget", "nowhere"), 1, "There is no node 'nowhere'."),
        (("drain",), 2, "Missing argument"),
    ],
)
def test_a_wrong_name_is_a_one_line_error(
    terminal: Terminal, arguments: tuple[str, ...], code: int, error: str
) -> None:
    result = terminal.run(*arguments)
    assert result[0] == code
    assert error in result[2]
    assert "Traceback" not in result[2]
