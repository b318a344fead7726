"""Operators see an agent's status, its node and its displaced polls."""

import signal
import socket
import ssl
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from conftest import querying
from support.batches import command
from support.raw import read_answer, request
from support.server import Server, running_server, start_server
from support.waiting import PATIENCE, wait_until

from comms_api.settings import Settings


def show(management: httpx.Client, agent_id: UUID) -> dict[str, Any]:
    answer = management.get(f"/agents/{agent_id}")
    assert answer.status_code == 200, answer.text
    agent: dict[str, Any] = answer.json()
    return agent


def presence(management: httpx.Client, agent_id: UUID) -> tuple[str, str | None]:
    agent = show(management, agent_id)
    return agent["status"], agent["node"]


def test_the_agents_of_a_lost_node_are_disconnected_until_another_node_sees_them(
    folder: Path, new_database: Callable[[], str]
) -> None:
    url = new_database()
    with running_server(folder / "stays", url, node_name="stays") as stays:
        management = stays.management()
        killed = start_server(folder / "stays", url, node_name="killed")
        moves, silent = (stays.enroll(management, name) for name in ("moves", "silent"))
        for agent_id in (moves, silent):
            killed.log_in(agent_id)
        wait_until(lambda: presence(management, moves) == presence(management, silent) == ("active", "killed"))
        assert management.get("/nodes/agents").json() == [{"node": "killed", "agents": 2}]
        killed.stop(signal.SIGKILL)
        wait_until(lambda: presence(management, moves) == presence(management, silent) == ("disconnected", None))
        stays.log_in(moves)
        wait_until(lambda: presence(management, moves) == ("active", "stays"))
        assert presence(management, silent) == ("disconnected", None)
        assert management.get("/nodes/agents").json() == [{"node": "stays", "agents": 1}]
        assert management.get("/agents?node=killed").json()["items"] == []
        assert [agent["name"] for agent in management.get("/agents?status=active").json()["items"]] == ["moves"]


def test_a_silent_agent_is_disconnected_after_the_configured_time(
    folder: Path, new_database: Callable[[], str]
) -> None:
    url = new_database()
    with running_server(folder / "silent", url, disconnected_after_seconds=3600) as server:
        management = server.management()
        age = "UPDATE agents SET last_seen_at = last_seen_at - interval '1900 s'"
        agent_id = server.enroll(management, "quiet")
        assert presence(management, agent_id) == ("never_connected", None)
        client = server.log_in(agent_id)
        wait_until(lambda: presence(management, agent_id)[0] == "active")
        querying(url)(age)
        assert presence(management, agent_id)[0] == "active"
        querying(url)(age)
        assert presence(management, agent_id)[0] == "disconnected"
        body = command(agent_id) | {"target": {"type": "all", "filter": {"status": "disconnected"}}}
        dry_run = management.post("/commands?dry_run=true", json=body).json()
        assert dry_run["commands"][0]["recipients"] == [str(agent_id)]
        client.get("/commands?wait=0")
        wait_until(lambda: presence(management, agent_id)[0] == "active")


def test_by_default_an_agent_may_miss_one_poll() -> None:
    assert Settings().silence_seconds == 2 * 60 + 60
    assert Settings(poll_wait_seconds=300).silence_seconds == 660
    assert Settings(disconnected_after_seconds=5).silence_seconds == 5


def poll_from(server: Server, address: str, token: str) -> ssl.SSLSocket:
    """Begin a poll from a loopback address."""
    plain = socket.create_connection(("127.0.0.1", server.agent_port), PATIENCE, (address, 0))
    connection = server.tls.wrap_socket(plain, server_hostname="127.0.0.1")
    connection.sendall(request("GET", "/commands?wait=60", token))
    return connection


def test_a_displaced_poll_is_logged_and_shown(folder: Path, new_database: Callable[[], str]) -> None:
    url = new_database()
    with ExitStack() as stack:
        server = stack.enter_context(running_server(folder / "clones", url))
        management = server.management()
        agent_id = server.enroll(management, "cloned")
        token = server.token(agent_id)
        older = stack.enter_context(poll_from(server, "127.0.0.2", token))
        wait_until(lambda: show(management, agent_id)["poll_address"] == "127.0.0.2")
        assert show(management, agent_id)["displaced_polls"] == 0
        newer = stack.enter_context(poll_from(server, "127.0.0.3", token))
        assert read_answer(older).body == b'{"commands":[]}'
        wait_until(lambda: show(management, agent_id)["displaced_polls"] == 1)
        agent = show(management, agent_id)
        assert (agent["displaced_poll_address"], agent["poll_address"]) == ("127.0.0.2", "127.0.0.3")
        assert agent["displaced_poll_at"] == agent["polled_at"]
        stack.enter_context(poll_from(server, "127.0.0.2", token))
        assert read_answer(newer).body == b'{"commands":[]}'
        wait_until(lambda: show(management, agent_id)["displaced_polls"] == 2)
    log = (folder / "clones" / "log").read_text()
    assert log.count(f"agent {agent_id}: its poll from 127.0.0.2 was displaced by a newer one from 127.0.0.3") == 1
    assert log.count("was displaced") == 1  # at most once an hour
    assert querying(url)("SELECT displaced_poll_address FROM agents")[0][0] == "127.0.0.3"
