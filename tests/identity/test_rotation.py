"""Rotating an agent's key: by the agent itself when an order says so, or by an operator after a compromise."""

import asyncio
import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy import text
from support.batches import command
from support.server import KEY, Server, new_id, running_server
from support.waiting import PATIENCE, wait_until

from comms_api.database.connection import Engine

NEXT_KEY = "next-0123456789abcdefghijklmnopq"
THIRD_KEY = "third-0123456789abcdefghijklmnop"
PROGRAM = Path(__file__).parents[2] / "examples" / "key_requests" / "agents_from_sql.py"


@pytest.fixture(scope="module")
def server(folder: Path, database_url: str) -> Iterator[Server]:
    """A node whose statements wait for a lock as long as the tests do."""
    with running_server(folder, database_url, database_timeout_seconds=PATIENCE) as running:
        yield running


def log_in(server: Server, agent_id: object, key: str) -> httpx.Response:
    return server.client(server.agent_url).post("/login", json={"uuid": str(agent_id), "key": key})


def order_to_rotate(management: httpx.Client, agent_id: object) -> str:
    answer = management.post("/commands", json=command(str(agent_id), action="rotate-key"))
    assert answer.status_code == 201, answer.text
    order_id: str = answer.json()["commands"][0]["order_ids"][0]
    return order_id


def submit(agent: httpx.Client, order_id: str, key: str = NEXT_KEY, current: str = KEY) -> httpx.Response:
    return agent.put("/key", json={"order_id": order_id, "current_key": current, "next_key": key})


def is_refused_soon(agent: httpx.Client) -> bool:
    return wait_until(lambda: agent.get("/commands?wait=0").status_code == 401) >= 0


def test_an_agent_makes_its_next_key_and_the_old_one_ends_at_its_first_use(
    server: Server, management: httpx.Client, query: Callable[..., list[Any]]
) -> None:
    agent_id = server.enroll(management, "rotating")
    agent = server.log_in(agent_id)
    order_id = order_to_rotate(management, agent_id)
    [order] = agent.get("/commands?wait=5").json()["commands"]
    assert (order["order_id"], order["action"]["args"]) == (order_id, {})
    assert [submit(agent, order_id).status_code for _ in range(2)] == [204, 204]
    assert log_in(server, agent_id, KEY).status_code == 200  # the agent may not have received the answer
    rotated = log_in(server, agent_id, NEXT_KEY)
    assert rotated.status_code == 200
    assert is_refused_soon(agent)
    assert log_in(server, agent_id, KEY).json()["message"] == "Invalid key"
    agent = server.client(server.agent_url, rotated.json()["token"])
    assert submit(agent, order_id).status_code == 204  # its answer was lost
    assert agent.get("/commands?wait=0").status_code == 200
    shown = "".join(
        management.get(path).text for path in ("/audit/export", f"/orders/{order_id}", f"/agents/{agent_id}")
    )
    assert NEXT_KEY not in shown
    assert '"next_key_hash":' not in shown
    assert f"agent {agent_id}" in shown
    assert NEXT_KEY not in (server.folder / "log").read_text()
    assert query("SELECT next_key_hash FROM agents WHERE id = $1", agent_id)[0][0] is None


def test_a_next_key_without_its_order_or_the_current_key_is_refused(server: Server, management: httpx.Client) -> None:
    agent_id, other_id = (server.enroll(management, f"refused {number}") for number in range(2))
    agent = server.log_in(agent_id)
    order_id = order_to_rotate(management, agent_id)
    [ping] = management.post("/commands", json=command(agent_id, action="ping")).json()["commands"]
    for wrong, current, key, status in (
        (str(new_id()), KEY, NEXT_KEY, 422),
        (ping["order_ids"][0], KEY, NEXT_KEY, 422),
        (order_to_rotate(management, other_id), KEY, NEXT_KEY, 422),
        (order_id, THIRD_KEY, NEXT_KEY, 403),
        (order_id, KEY, "short", 422),
        (order_id, KEY, "k" * 32, 422),
        ("no uuid", KEY, NEXT_KEY, 400),
    ):
        refused = submit(agent, wrong, key, current)
        assert refused.status_code == status, (wrong, current, key)
        assert key not in refused.text
    assert len(agent.get("/commands?wait=5").json()["commands"]) == 2
    result = {"results": [{"order_id": order_id, "result": {"code": 0, "message": "done"}}]}
    assert agent.post("/commands/results", json=result).status_code == 200
    assert submit(agent, order_id).status_code == 422
    assert log_in(server, agent_id, NEXT_KEY).json()["message"] == "Invalid key"
    assert log_in(server, agent_id, KEY).status_code == 200


WAITING = """
    SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
    AND (query LIKE '%FOR UPDATE' OR query LIKE 'UPDATE agents SET key_hash%')"""
"""The two tasks that wait for the agent's row; duties that record sightings may wait for it as well."""


@pytest.mark.anyio
@pytest.mark.parametrize("first", ["submission", "compromise"])
async def test_an_operators_key_wins_over_a_simultaneous_rotation(
    server: Server, management: httpx.Client, engine: Engine, query: Callable[..., list[Any]], first: str
) -> None:
    agent_id = server.enroll(management, f"raced {first}")
    agent, order_id = server.log_in(agent_id), order_to_rotate(management, agent_id)
    requests: dict[str, Callable[[], httpx.Response]] = {
        "submission": lambda: submit(agent, order_id),
        "compromise": lambda: management.post(f"/agents/{agent_id}/key", json={"key": THIRD_KEY}),
    }
    in_order = [requests.pop(first), *requests.values()]
    async with asyncio.TaskGroup() as tasks, engine.begin() as connection:  # both wait for this, one after the other
        await connection.execute(text("SELECT 1 FROM agents WHERE id = :id FOR UPDATE"), {"id": agent_id})
        for number, request in enumerate(in_order, 1):
            tasks.create_task(asyncio.to_thread(request))
            await asyncio.to_thread(wait_until, lambda number=number: len(query(WAITING)) == number)
    for key in (KEY, NEXT_KEY):
        assert log_in(server, agent_id, key).json()["message"] == "Invalid key", key
    assert log_in(server, agent_id, THIRD_KEY).status_code == 200


def test_each_of_many_first_logins_with_the_next_key_succeeds(server: Server, management: httpx.Client) -> None:
    agent_id = server.enroll(management, "eager")
    assert submit(server.log_in(agent_id), order_to_rotate(management, agent_id)).status_code == 204

    async def all_at_once() -> list[httpx.Response]:
        return await asyncio.gather(*(asyncio.to_thread(log_in, server, agent_id, NEXT_KEY) for _ in range(12)))

    assert {answer.status_code for answer in asyncio.run(all_at_once())} == {200}


def test_a_key_from_an_external_database_is_rotated_there_and_ended_by_an_operator(
    folder: Path, new_database: Callable[[], str]
) -> None:
    source = folder / "agents.sqlite"
    with sqlite3.connect(source) as connection:
        connection.execute("CREATE TABLE agents (id text PRIMARY KEY, name text NOT NULL, ip text, key text)")
        connection.execute("INSERT INTO agents VALUES ('001', 'outside', 'any', ?)", (KEY,))
    connection.close()
    program = f"'{sys.executable}' '{PROGRAM}' '{source}'"
    with running_server(folder / "external", new_database(), key_request_program=program) as server:
        management = server.management()
        agent = server.client(server.agent_url, log_in(server, "001", KEY).json()["token"])
        [known] = management.get("/agents?name=outside").json()["items"]
        agent_id = UUID(known["id"])
        refused = submit(agent, order_to_rotate(management, agent_id))
        assert (refused.status_code, "external database" in refused.json()["detail"]) == (422, True)
        assert management.post(f"/agents/{agent_id}/key", json={"key": THIRD_KEY}).status_code == 200
        assert log_in(server, "001", KEY).json()["message"] == "Invalid key"  # although the database still says so
        assert log_in(server, "001", THIRD_KEY).status_code == 200
