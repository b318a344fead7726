"""A node that drains redirects its agents, but serves the requests that it gets, until it is resumed."""

import asyncio
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from support.batches import command, stateless
from support.databases import querying
from support.heartbeats import wait_for_heartbeats
from support.polls import held_polls
from support.ports import fixed_binds
from support.raw import connect, read_answer
from support.server import Server, running_server
from support.waiting import PATIENCE, wait_until

from comms_api.cluster.model import HEARTBEAT_SECONDS
from comms_api.database.liveness import LOST_AFTER_SECONDS

POLL_SECONDS = 3600
"""Longer than any test, so that only a drain can end a poll."""


@pytest.fixture(scope="module")
def nodes(folder: Path, database_url: str) -> Iterator[tuple[Server, Server]]:
    """Two nodes, the first of which is drained."""
    with (
        running_server(folder, database_url, node_name="one", poll_wait_seconds=POLL_SECONDS) as one,
        running_server(folder, database_url, node_name="two") as two,
    ):
        yield one, two


@pytest.fixture(scope="module")
def server(nodes: tuple[Server, Server]) -> Server:
    return nodes[0]


def readiness(server: Server) -> list[int]:
    """Return the status of `GET /ready` on both APIs."""
    answers = [server.client(url).get("/ready") for url in (server.agent_url, server.management_url)]
    assert all(("retry-after" in answer.headers) == (answer.status_code == 503) for answer in answers)
    assert all(server.client(url).get("/").status_code == 200 for url in (server.agent_url, server.management_url))
    return [answer.status_code for answer in answers]


def wait_for_readiness(server: Server, status: int) -> None:
    wait_until(lambda: readiness(server) == [status] * 2)


def state(management: httpx.Client, name: str) -> str:
    return next(str(node["state"]) for node in management.get("/nodes").json() if node["name"] == name)


@pytest.mark.anyio
async def test_a_drained_node_redirects_polls_and_a_resumed_one_holds_them(
    nodes: tuple[Server, Server],
) -> None:
    one, two = nodes
    management = two.management()
    tokens = [two.token(two.enroll(management, f"drained{number}")) for number in range(20)]
    async with (
        held_polls(one.tls, one.agent_port, tokens, POLL_SECONDS) as polls,
        held_polls(two.tls, two.agent_port, [two.token(two.enroll(management, "stays"))]) as staying,
    ):
        assert all(poll.is_held for poll in polls)
        answer = await asyncio.to_thread(management.post, "/nodes/one/drain")
        assert answer.json() == {"name": "one", "wanted_state": "draining", "workers": 1}
        orders = await asyncio.wait_for(asyncio.gather(*(poll.answer for poll in polls)), PATIENCE)
        assert all(order.commands == [] for order in orders)
        assert all(b"connection: close" in poll.head.lower() for poll in polls)
        await asyncio.to_thread(wait_for_readiness, one, 503)
        assert state(management, "one") == "draining"
        assert readiness(two) == [200, 200]
        assert staying[0].is_held
    client = one.client(one.agent_url, tokens[0])
    for path in ("/commands", f"/api/v1/commands?wait={POLL_SECONDS}"):
        answer = await asyncio.to_thread(client.get, path)
        assert (answer.json(), answer.headers["connection"]) == ({"commands": []}, "close")
    await asyncio.to_thread(management.post, "/nodes/one/resume")
    await asyncio.to_thread(wait_for_readiness, one, 200)
    assert state(management, "one") == "active"
    async with held_polls(one.tls, one.agent_port, tokens) as polls:
        assert all(poll.is_held for poll in polls)
    answer = await asyncio.to_thread(client.get, "/commands?wait=0")
    assert "connection" not in answer.headers


def test_a_draining_node_finishes_requests_and_then_closes_their_connections(nodes: tuple[Server, Server]) -> None:
    one, two = nodes
    management = two.management()
    agent_id = two.enroll(management, "sending")
    body = stateless(agent_id, *({"n": number} for number in range(100)))
    head = f"POST /events/stateless HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {two.token(agent_id)}\r\n"
    with connect(one.tls, one.agent_port) as connection:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n".encode())
        assert read_answer(connection).status == 100
        connection.sendall(body[:100])
        management.post("/nodes/one/drain")
        wait_for_readiness(one, 503)
        connection.sendall(body[100:])
        assert read_answer(connection).status == 204
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        answer = read_answer(connection)
        assert (answer.status, answer.headers["connection"]) == (204, "close")
        assert connection.recv(1) == b""
    management.post("/nodes/one/resume")
    wait_for_readiness(one, 200)
    stored = management.get("/events", params={"agent_id": str(agent_id), "limit": 1000}).json()["items"]
    assert len(stored) == 200


@pytest.mark.anyio
async def test_an_order_for_a_drained_agent_waits_for_its_next_poll(nodes: tuple[Server, Server]) -> None:
    one, two = nodes
    management = two.management()
    agent_id = two.enroll(management, "moving")
    token = two.token(agent_id)
    async with held_polls(one.tls, one.agent_port, [token]) as [poll]:
        await asyncio.to_thread(management.post, "/nodes/one/drain")
        assert (await asyncio.wait_for(poll.answer, PATIENCE)).commands == []
    await asyncio.to_thread(management.post, "/commands", json=command(agent_id))
    async with held_polls(two.tls, two.agent_port, [token]) as [poll]:
        assert len((await asyncio.wait_for(poll.answer, PATIENCE)).commands) == 1
    await asyncio.to_thread(management.post, "/nodes/one/resume")
    await asyncio.to_thread(wait_for_readiness, one, 200)


def test_the_audit_trail_says_who_drained_a_node_and_has_no_heartbeats(nodes: tuple[Server, Server]) -> None:
    one, two = nodes
    management = two.management()
    operator = two.user(management, "driver", "operator")
    assert operator.post("/nodes/one/drain").status_code == 200
    wait_for_readiness(one, 503)
    assert operator.post("/nodes/one/resume").status_code == 200
    wait_for_readiness(one, 200)
    wait_for_heartbeats(management, "one", 2)
    entries = management.get("/audit", params={"subject": "nodes", "actor": "driver"}).json()["items"]
    assert [(entry["key"], entry["after"]["wanted_state"]) for entry in entries] == [
        ("one/0", "draining"),
        ("one/0", "active"),
    ]
    everything = management.get("/audit", params={"subject": "nodes", "limit": 1000}).json()["items"]
    assert {entry["actor"] for entry in everything} <= {"driver", "admin"}
    assert management.post("/nodes/three/drain").status_code == 404
    assert two.user(management, "onlooker", "reader").post("/nodes/one/drain").status_code == 403


def test_a_drained_node_is_drained_after_a_crash_and_active_after_a_clean_stop(
    nodes: tuple[Server, Server], database_url: str
) -> None:
    management = nodes[1].management()
    home, binds = nodes[1].folder, fixed_binds()
    with running_server(home, database_url, node_name="third", **binds) as third:
        management.post("/nodes/third/drain")
        wait_for_readiness(third, 503)
        third.stop(signal.SIGKILL)
    with running_server(home, database_url, node_name="third", **binds) as restarted:
        assert readiness(restarted) == [503, 503]
    with running_server(home, database_url, node_name="third", **binds) as restarted:
        assert readiness(restarted) == [200, 200]


def test_every_worker_of_a_node_is_drained(nodes: tuple[Server, Server], database_url: str) -> None:
    management = nodes[1].management()
    with running_server(nodes[1].folder, database_url, node_name="several", workers=2) as several:
        wait_until(lambda: management.post("/nodes/several/drain").json()["workers"] == 2)
        wait_until(lambda: {several.client(several.agent_url).get("/ready").status_code for _ in range(20)} == {503})


def test_a_node_that_seems_lost_to_others_is_not_ready(folder: Path, new_database: Callable[[], str]) -> None:
    url = new_database()
    with running_server(folder / "missed", url) as server:
        wait_for_readiness(server, 200)
        querying(url)("ALTER TABLE nodes RENAME TO away")
        wait_for_readiness(server, 503)
        [(silent_seconds,)] = querying(url)("SELECT extract(epoch FROM clock_timestamp() - seen_at) FROM away")
        assert silent_seconds > LOST_AFTER_SECONDS - HEARTBEAT_SECONDS
        querying(url)("ALTER TABLE away RENAME TO nodes")
        wait_for_readiness(server, 200)
