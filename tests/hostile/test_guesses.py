"""Guesses at keys and passwords are counted one by one, on all nodes together, and cost nobody else a login."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from support.databases import querying
from support.guesses import guess_at_once
from support.server import KEY, PASSWORD, Server, running_server
from support.waiting import PATIENCE

from comms_api.tokens.secret import Secret

WEAK_KEY = "secret"


@pytest.fixture(scope="module")
def other_node(server: Server, database_url: str) -> Iterator[Server]:
    with running_server(server.folder, database_url) as running:
        yield running


def log_in(server: Server, name: str, password: str = PASSWORD, *, address: str = "127.0.0.1") -> httpx.Response:
    transport = httpx.HTTPTransport(verify=server.tls, local_address=address)
    with httpx.Client(base_url=server.management_url, transport=transport, timeout=PATIENCE) as client:
        return client.post("/security/user/authenticate", auth=(name, password))


def log_in_agent(server: Server, agent_id: UUID, key: str) -> httpx.Response:
    with httpx.Client(base_url=server.agent_url, verify=server.tls, timeout=PATIENCE) as client:
        return client.post("/login", json={"uuid": str(agent_id), "key": key})


def weaken_key(server: Server, database_url: str, agent_id: UUID) -> None:
    """Give an agent a slowly hashed key, as an external database may."""
    secret = Secret((server.folder / "data" / "secret").read_bytes().strip())
    key_hash = secret.hash_weak_key(WEAK_KEY)
    querying(database_url)("UPDATE agents SET key_hash = $1 WHERE id = $2", key_hash, agent_id)


def test_guesses_at_a_user_through_two_nodes_are_evaluated_one_by_one(
    server: Server, other_node: Server, management: httpx.Client
) -> None:
    server.user(management, "guessed", "reader")
    nodes = (server, other_node)
    guess_at_once(lambda number: log_in(nodes[number % 2], "guessed", f"wrong password {number}"), 70)
    assert log_in(other_node, "guessed", address="127.0.0.2").status_code == 200


def test_guesses_at_a_weak_key_are_evaluated_one_by_one_and_an_administrator_logs_in_meanwhile(
    server: Server, other_node: Server, management: httpx.Client, database_url: str
) -> None:
    agent_id = server.enroll(management, "weak")
    weaken_key(server, database_url, agent_id)
    assert log_in_agent(server, agent_id, WEAK_KEY).status_code == 200
    nodes = (server, other_node)
    with ThreadPoolExecutor(1) as thread:
        guessing = thread.submit(
            guess_at_once, lambda number: log_in_agent(nodes[number % 2], agent_id, f"guess {number}"), 400
        )
        assert log_in(server, "admin").status_code == 200
        guessing.result()


def test_counting_a_failure_waits_for_no_disk_and_no_standby(database_url: str) -> None:
    persistence = "SELECT relpersistence FROM pg_class WHERE relname = 'login_failures'"
    assert querying(database_url)(persistence)[0][0] == b"u"


@pytest.mark.anyio
async def test_a_right_key_of_full_strength_asks_nothing_of_the_failures(
    server: Server, management: httpx.Client, engine: AsyncEngine
) -> None:
    agent_id = server.enroll(management, "strong")
    async with engine.begin() as connection:
        await connection.execute(text("LOCK TABLE login_failures IN ACCESS EXCLUSIVE MODE"))
        answer = await asyncio.to_thread(log_in_agent, server, agent_id, KEY)
    assert answer.status_code == 200
