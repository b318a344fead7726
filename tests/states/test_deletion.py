"""An agent is deleted while its batches are under way: none of its states stay, and nothing deadlocks."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import httpx
import pytest
from support.batches import command, state, stateful
from support.databases import PATIENT, add_agents
from support.duties import performing
from support.keyed import held, is_waiting
from support.server import KEY, Server
from support.waiting import PATIENCE, wait_until

from comms_api.agents import deletion
from comms_api.agents.deletion import STATES_PER_STEP, delete_states, delete_states_left
from comms_api.database.connect import open_engine
from comms_api.database.connection import Engine
from comms_api.fairness.slices import Slices
from comms_api.protocol import OrderResult, ReportOutcome
from comms_api.states.model import StateChange, StatefulBatch
from comms_api.states.service import States

Query = Callable[..., list[Any]]
ADD = """INSERT INTO states (agent_id, module, collector, id, data)
    SELECT $1, 'm', '', number::text, '{}' FROM generate_series(1, $2::int) AS number"""
ROUNDS, THREADS, BATCHES = 8, 6, 4


def states_of(query: Query, agent_id: UUID) -> int:
    [[count]] = query("SELECT count(*) FROM states WHERE agent_id = $1", agent_id)
    return int(count)


@pytest.mark.parametrize(
    "held_back_by",
    [
        pytest.param("SELECT pg_advisory_xact_lock(hashtextextended('{}', 0))", id="before it locks its agent"),
        pytest.param("INSERT INTO states VALUES ('{}', 'fim', 'file', 'x', '{{}}')", id="while it writes"),
    ],
)
def test_a_deletion_waits_for_a_batch_that_is_being_applied(
    server: Server, management: httpx.Client, query: Query, database_url: str, held_back_by: str
) -> None:
    agent_id = server.enroll(management, held_back_by[:6])
    agent, body = server.log_in(agent_id), stateful(agent_id, state("x"))
    with ThreadPoolExecutor() as threads, held(database_url, held_back_by.format(agent_id)):
        sent = threads.submit(agent.post, "/events/stateful", content=body)
        wait_until(lambda: is_waiting(query))
        deleted = threads.submit(management.delete, f"/agents/{agent_id}")
        wait_until(lambda: query("SELECT FROM deleted_agents WHERE agent_id = $1", agent_id))
    assert deleted.result().status_code == 204
    assert sent.result().status_code == 200
    assert states_of(query, agent_id) == 0


def test_the_open_orders_of_a_deleted_agent_expire_even_if_one_is_locked(
    server: Server, management: httpx.Client, query: Query, database_url: str
) -> None:
    agent_id = server.enroll(management, "with orders")
    commands = [management.post("/commands", json=command(agent_id)).json()["commands"][0] for _ in range(2)]
    order_ids = [order_id for created in commands for order_id in created["order_ids"]]
    lock = f"SELECT FROM orders WHERE order_id = '{order_ids[0]}' FOR UPDATE"
    with ThreadPoolExecutor() as threads, held(database_url, lock):
        deleted = threads.submit(management.delete, f"/agents/{agent_id}")
        wait_until(lambda: is_waiting(query))
    assert deleted.result().status_code == 204
    for order_id in order_ids:
        wait_until(lambda url=f"/orders/{order_id}": management.get(url).json()["status"] == "failure")
        assert management.get(f"/orders/{order_id}").json()["outcome"] == "expired_before_delivery"


def test_states_are_deleted_in_steps_and_the_id_is_free_after_the_last(
    server: Server, management: httpx.Client, query: Query, database_url: str
) -> None:
    agent_id = server.enroll(management, "large")
    query(ADD, agent_id, 2 * STATES_PER_STEP + 1)
    again = {"id": str(agent_id), "name": "large again", "key": KEY}
    last = f"SELECT FROM states WHERE agent_id = '{agent_id}' AND id = '{2 * STATES_PER_STEP + 1}' FOR UPDATE"
    with ThreadPoolExecutor() as threads, held(database_url, last):
        deleted = threads.submit(management.delete, f"/agents/{agent_id}")
        wait_until(lambda: states_of(query, agent_id) == 1)
        refused = management.post("/agents", json=again)
        assert (refused.status_code, refused.headers["retry-after"].isdecimal()) == (503, True)
    assert deleted.result().status_code == 204
    assert management.post("/agents", json=again).status_code == 201


async def clean_up(database_url: str) -> None:
    engine = open_engine(database_url, PATIENT)
    await delete_states_left(engine)
    await engine.dispose()


def test_batches_that_race_with_the_deletion_of_their_agent_leave_no_state(
    server: Server, management: httpx.Client, query: Query, database_url: str
) -> None:
    for number in range(ROUNDS):
        agent_id = server.enroll(management, f"raced {number}")
        token = server.token(agent_id)

        def send(thread: int, agent_id: UUID = agent_id, token: str = token) -> list[int]:
            client, statuses = server.client(server.agent_url, token), list[int]()
            for part in range(BATCHES):
                ids = range(part * 50, part * 50 + 100) if thread % 2 else range(part * 50 + 100, part * 50, -1)
                body = stateful(agent_id, *(state(str(id_), "update", {"by": thread}) for id_ in ids))
                statuses.append(client.post("/events/stateful", content=body).status_code)
            return statuses

        with ThreadPoolExecutor() as threads:
            sending = [threads.submit(send, thread) for thread in range(THREADS)]
            wait_until(lambda agent_id=agent_id: states_of(query, agent_id) > 0)
            assert management.delete(f"/agents/{agent_id}").status_code == 204
            statuses = {status for sent in sending for status in sent.result()}
        assert statuses <= {200, 401}
        asyncio.run(clean_up(database_url))
        assert states_of(query, agent_id) == 0


async def fetch(engine: Engine, statement: str, *arguments: object) -> list[Any]:
    async with engine.connect() as connection:
        return [row[0] for row in await connection.driver.fetch(statement, *arguments)]


async def delete_agent(engine: Engine, agent_id: UUID) -> None:
    async with engine.begin() as connection:
        assert await deletion.delete_agent(connection, agent_id)


async def no_reports(_agent_id: object, _results: Sequence[OrderResult]) -> Sequence[ReportOutcome]:
    return []


@pytest.mark.anyio
async def test_states_that_a_batch_adds_after_the_deletion_are_found_and_deleted(engine: Engine) -> None:
    [agent_id], states = await add_agents(engine, 1), States(engine, no_reports, Slices())
    change = StateChange(0, (str(agent_id), "fim", "file", "1"), "create", b"{}")
    await delete_agent(engine, agent_id)
    await delete_states(engine, agent_id)
    async with performing(states), asyncio.timeout(PATIENCE):
        await states.change(agent_id, StatefulBatch([change], []), sequence=1)
    await delete_states_left(engine)
    for table in ("states", "state_sequences"):
        assert await fetch(engine, f"SELECT count(*) FROM {table} WHERE agent_id = $1", agent_id) == [0]


@pytest.mark.anyio
async def test_a_deleted_agent_is_noted_until_no_batch_can_be_under_way(engine: Engine) -> None:
    [agent_id] = await add_agents(engine, 1)
    await delete_agent(engine, agent_id)
    await delete_states_left(engine)
    noted = "SELECT is_cleared FROM deleted_agents WHERE agent_id = $1"
    assert await fetch(engine, noted, agent_id) == [True]
    await fetch(engine, "UPDATE deleted_agents SET deleted_at = deleted_at - interval '61 minutes'")
    await delete_states_left(engine)
    assert await fetch(engine, noted, agent_id) == []


@pytest.mark.anyio
async def test_nodes_that_continue_the_same_deletions_do_not_disturb_each_other(engine: Engine) -> None:
    agents = await add_agents(engine, 2)
    for agent_id in agents:
        await fetch(engine, ADD, agent_id, 2 * STATES_PER_STEP + 1)
        await delete_agent(engine, agent_id)
    await asyncio.gather(*(delete_states_left(engine) for _ in range(3)))
    assert await fetch(engine, "SELECT count(*) FROM states WHERE agent_id = ANY($1::uuid[])", agents) == [0]
    assert await fetch(engine, "SELECT count(*) FROM deleted_agents WHERE NOT is_cleared") == [0]


@pytest.mark.anyio
async def test_states_of_an_agent_that_has_its_id_again_are_its_own(engine: Engine) -> None:
    [agent_id] = await add_agents(engine, 1)
    await delete_agent(engine, agent_id)
    await fetch(engine, "INSERT INTO agents (id, name, key_hash) VALUES ($1, 'again', '')", agent_id)
    await fetch(engine, ADD, agent_id, 1)
    await delete_states_left(engine)
    assert await fetch(engine, "SELECT count(*) FROM states WHERE agent_id = $1", agent_id) == [1]
