"""Held polls do not slow other requests, and each is answered only with the orders of its agent."""

import asyncio
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psutil
import pytest
from support.batches import command
from support.heartbeats import wait_for_polls
from support.polls import ask_repeatedly, held_polls
from support.raw import connect, request
from support.server import Server, running_server
from support.waiting import PATIENCE

AGENTS = 200
Query = Callable[..., list[Any]]
Leave = Callable[[ssl.SSLSocket], object]


@pytest.fixture(scope="module")
def server(folder: Path, database_url: str) -> Iterator[Server]:
    """A node whose leases do not expire during a test."""
    with running_server(folder, database_url, lease_seconds=3600, sweep_seconds=0.5) as running:
        yield running


@pytest.fixture(scope="module")
def agents(server: Server, management: httpx.Client) -> dict[UUID, str]:
    """Agents and their tokens."""
    return {
        agent_id: server.token(agent_id)
        for agent_id in (server.enroll(management, f"poll{number}") for number in range(AGENTS))
    }


@pytest.mark.anyio
async def test_idle_polls_do_not_slow_other_requests(
    server: Server, management: httpx.Client, agents: dict[UUID, str]
) -> None:
    node = psutil.Process(server.process.pid)

    async def measure() -> float:
        """Return the CPU time of some requests, which does not depend on other load on the machine."""
        before = sum(node.cpu_times()[:2])
        await ask_repeatedly(server.tls, server.agent_port, 2_000)
        return sum(node.cpu_times()[:2]) - before

    alone, threads = await measure(), node.num_threads()
    async with held_polls(server.tls, server.agent_port, list(agents.values())) as polls:
        await asyncio.to_thread(wait_for_polls, management, AGENTS)
        beside_polls = await measure()
        assert all(poll.is_held for poll in polls)
        assert node.num_threads() < threads + AGENTS / 10
    assert beside_polls < 2 * alone + 0.2


@pytest.mark.anyio
async def test_an_order_for_one_agent_answers_its_poll_alone(
    server: Server, management: httpx.Client, agents: dict[UUID, str]
) -> None:
    ids = list(agents)
    async with held_polls(server.tls, server.agent_port, list(agents.values())) as polls:
        answer = await asyncio.to_thread(management.post, "/commands", json=command(ids[7]))
        assert answer.status_code == 201
        orders = await asyncio.wait_for(polls[7].answer, PATIENCE)
        assert [order.target.id for order in orders.commands] == [str(ids[7])]
        await asyncio.sleep(1)  # longer than a sweep
        assert sum(poll.is_held for poll in polls) == AGENTS - 1


@pytest.mark.anyio
async def test_ten_thousand_orders_for_absent_agents_delay_no_poll(
    server: Server, management: httpx.Client, agents: dict[UUID, str], query: Query
) -> None:
    await asyncio.to_thread(
        query,
        """WITH absent AS (INSERT INTO agents (id, name, key_hash)
               SELECT gen_random_uuid(), 'absent' || n, '' FROM generate_series(1, 10000) n RETURNING id),
           grouped AS (INSERT INTO groups (name) VALUES ('absent') RETURNING name)
           SELECT count(*) FROM absent, grouped""",
    )
    await asyncio.to_thread(
        query,
        "INSERT INTO group_members SELECT 'absent', id FROM agents WHERE name LIKE 'absent%' RETURNING 1",
    )
    submitted = await asyncio.to_thread(management.post, "/commands", json=command("absent", "group"))
    assert submitted.json()["commands"][0]["orders"] == 10_000
    some = list(agents)[:20]
    async with held_polls(server.tls, server.agent_port, [agents[agent] for agent in some]) as polls:
        for agent, poll in zip(some, polls, strict=True):
            await asyncio.to_thread(management.post, "/commands", json=command(agent))
            assert len((await asyncio.wait_for(poll.answer, PATIENCE)).commands) >= 1


@pytest.mark.anyio
async def test_the_newest_of_two_polls_of_one_agent_wins(
    server: Server, management: httpx.Client, agents: dict[UUID, str]
) -> None:
    agent_id, token = list(agents.items())[30]
    async with held_polls(server.tls, server.agent_port, [token, token, token]) as polls:
        older = [await asyncio.wait_for(poll.answer, PATIENCE) for poll in polls[:2]]
        assert [orders.commands for orders in older] == [[], []]
        assert polls[2].is_held
        await asyncio.to_thread(management.post, "/commands", json=command(agent_id))
        assert len((await asyncio.wait_for(polls[2].answer, PATIENCE)).commands) == 1


@pytest.mark.anyio
async def test_an_order_for_a_client_that_vanished_goes_to_its_next_poll_at_once(
    server: Server, management: httpx.Client, agents: dict[UUID, str]
) -> None:
    agent_id, token = list(agents.items())[31]
    async with held_polls(server.tls, server.agent_port, [token]):
        pass
    await asyncio.to_thread(wait_for_polls, management, 0)
    await asyncio.to_thread(management.post, "/commands", json=command(agent_id))
    client = server.client(server.agent_url, token)
    answer = await asyncio.to_thread(client.get, "/commands?wait=60")
    assert len(answer.json()["commands"]) == 1
    order = await asyncio.to_thread(management.get, f"/orders/{answer.json()['commands'][0]['order_id']}")
    assert order.json()["attempt"] == 1


def kept_alive(path: str, token: str) -> bytes:
    return request("GET", path, token).replace(b"Connection: close\r\n", b"")


@pytest.mark.parametrize("polls_behind", [0, 3])
@pytest.mark.parametrize("leave", [ssl.SSLSocket.unwrap, ssl.SSLSocket.close])
def test_an_order_for_a_client_that_pipelined_and_vanished_goes_to_its_next_poll_at_once(
    server: Server, management: httpx.Client, agents: dict[UUID, str], polls_behind: int, leave: Leave
) -> None:
    agent_id, token = list(agents.items())[32]
    poll = kept_alive("/commands?wait=60", token)
    with connect(server.tls, server.agent_port) as connection:
        connection.sendall(poll)
        wait_for_polls(management, 1)
        connection.sendall(poll * polls_behind + b"GET ")
        time.sleep(0.3)
        leave(connection)
    wait_for_polls(management, 0)
    management.post("/commands", json=command(agent_id))
    orders = server.client(server.agent_url, token).get("/commands?wait=60").json()["commands"]
    assert [management.get(f"/orders/{order['order_id']}").json()["attempt"] for order in orders] == [1]


def test_a_client_that_pipelines_requests_behind_its_poll_gets_the_answers_in_order(
    server: Server, agents: dict[UUID, str]
) -> None:
    token = list(agents.values())[33]
    with connect(server.tls, server.agent_port) as connection:
        started = time.monotonic()
        connection.sendall(kept_alive("/commands?wait=2.5", token) + request("GET", "/nowhere", token))
        received = b""
        while b"HTTP/1.1 404" not in received:
            received += connection.recv(65536)
        assert received.startswith(b"HTTP/1.1 200")
        assert time.monotonic() - started > 2.4
