"""Silent agents are hidden, then removed with their data: not after an outage, and only a few in a day."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest
from support.batches import state, stateful
from support.databases import PATIENT, querying
from support.server import Server, running_server
from support.waiting import wait_until

from comms_api.database.connect import open_engine
from comms_api.database.connection import Engine
from comms_api.fleet.removal import Removal
from comms_api.fleet.statuses import Statuses
from comms_api.settings import Settings

Query = Callable[..., list[asyncpg.Record]]
SETTINGS = Settings(remove_after_days=30, remove_hidden_days=7)
ADD = """INSERT INTO agents (id, name, key_hash, last_seen_at)
    SELECT uuid7(), $1 || number, '', now() - $2::text::interval FROM generate_series(1, $3::int) AS number"""

ADD_ORDER = """INSERT INTO orders (order_id, request_id, agent_id, agent_groups, expires_at, bytes)
    VALUES (uuid7(), uuid7(), $1, '{}', now() + interval '1 hour', 0)"""


@pytest.fixture
def url(new_database: Callable[[], str]) -> str:
    return new_database()


@pytest.fixture
async def engine(url: str) -> AsyncIterator[Engine]:
    opened = open_engine(url, PATIENT)
    yield opened
    await opened.dispose()


async def perform(engine: Engine) -> None:
    """Perform one pass, whenever the last one was."""
    async with engine.connect() as connection:
        await connection.driver.execute("DELETE FROM fleet_checks WHERE name = 'silent agents'")
    await Removal(engine, SETTINGS).perform()


async def fetch(engine: Engine, statement: str, *arguments: object) -> list[Any]:
    async with engine.connect() as connection:
        return [row[0] for row in await connection.driver.fetch(statement, *arguments)]


HIDDEN = "SELECT name FROM agents WHERE hidden_at IS NOT NULL ORDER BY name"
ALL = "SELECT name FROM agents ORDER BY name"


@pytest.mark.anyio
async def test_an_agent_is_hidden_and_then_removed_with_what_it_owns(engine: Engine) -> None:
    await fetch(engine, ADD, "silent-", "31 days", 1)
    await fetch(engine, ADD, "lately-", "29 days", 1)
    [agent_id] = await fetch(engine, "SELECT id FROM agents WHERE name = 'silent-1'")
    for number, table in enumerate(("states", "other")):
        owner = agent_id if table == "states" else UUID(int=number)
        await fetch(
            engine,
            "INSERT INTO states (agent_id, module, collector, id, data) VALUES ($1, 'm', '', 'x', '{}')",
            owner,
        )
        await fetch(engine, ADD_ORDER, owner)
    await perform(engine)
    assert await fetch(engine, HIDDEN) == ["silent-1"]
    await fetch(engine, "UPDATE agents SET hidden_at = hidden_at - interval '6 days' WHERE name = 'silent-1'")
    await perform(engine)
    assert await fetch(engine, ALL) == ["lately-1", "silent-1"]
    await fetch(engine, "UPDATE agents SET hidden_at = hidden_at - interval '2 days' WHERE name = 'silent-1'")
    await perform(engine)
    assert await fetch(engine, ALL) == ["lately-1"]
    assert await fetch(engine, "SELECT agent_id FROM states") == [UUID(int=1)]
    assert await fetch(engine, "SELECT agent_id FROM orders WHERE expires_at <= now()") == [agent_id]
    assert await fetch(engine, "SELECT subject FROM revocations") == [str(agent_id)]
    audit = "SELECT operation FROM audit WHERE key = $1 AND actor = 'the removal of silent agents' ORDER BY id"
    assert await fetch(engine, audit, str(agent_id)) == ["update", "delete"]
    kinds = "SELECT kind FROM outbox WHERE agent_id = $1 ORDER BY id"
    assert await fetch(engine, kinds, agent_id) == ["enrolled", "hidden", "removed"]


@pytest.mark.anyio
async def test_at_most_a_twentieth_of_the_fleet_is_hidden_and_removed_in_a_day(engine: Engine) -> None:
    await fetch(engine, ADD, "silent-", "31 days", 60)
    await fetch(engine, ADD, "live-", "1 s", 40)
    for _ in range(3):
        await perform(engine)
    assert len(await fetch(engine, HIDDEN)) == 5
    await fetch(engine, "UPDATE agents SET hidden_at = now() - interval '8 days' WHERE name LIKE 'silent-%'")
    for _ in range(3):
        await perform(engine)
    assert len(await fetch(engine, ALL)) == 95
    await fetch(engine, "UPDATE fleet_actions SET at = at - interval '25 hours'")
    await perform(engine)
    assert len(await fetch(engine, ALL)) == 91  # a twentieth of 95


@pytest.mark.anyio
async def test_silence_during_an_outage_or_before_a_restore_does_not_count(engine: Engine) -> None:
    await Statuses(engine).record()
    await fetch(engine, ADD, "waits-", "40 days", 1)
    await fetch(engine, "UPDATE fleet_checks SET checked_at = now() - interval '20 days' WHERE name = 'statuses'")
    await Statuses(engine).record()
    [days] = await fetch(engine, "SELECT extract(day FROM ended_at - began_at)::int FROM fleet_outages")
    assert days == 20
    await perform(engine)
    assert await fetch(engine, HIDDEN) == []
    await fetch(engine, "UPDATE agents SET last_seen_at = last_seen_at - interval '11 days'")
    await perform(engine)
    assert await fetch(engine, HIDDEN) == ["waits-1"]


@pytest.mark.anyio
async def test_a_blocked_agent_is_not_removed_and_one_that_never_connected_is(engine: Engine) -> None:
    await fetch(engine, ADD, "blocked-", "90 days", 1)
    await fetch(engine, "UPDATE agents SET is_blocked = true")
    await fetch(
        engine,
        "INSERT INTO agents (id, name, key_hash, created_at) VALUES (uuid7(), 'never', '', now() - interval '90 days')",
    )
    await perform(engine)
    assert await fetch(engine, HIDDEN) == ["never"]


def test_a_hidden_agent_is_not_listed_and_its_login_brings_it_back(
    server: Server, management: httpx.Client, query: Query
) -> None:
    agent_id = server.enroll(management, "sleeps")
    query("UPDATE agents SET hidden_at = now(), last_seen_at = now() - interval '90 days' WHERE id = $1", agent_id)

    def listed(**parameters: Any) -> list[str]:
        return [agent["name"] for agent in management.get("/agents", params=parameters).json()["items"]]

    assert (listed(), listed(hidden=True)) == ([], ["sleeps"])
    client = server.log_in(agent_id)  # fails unless the login succeeds
    assert (listed(), listed(hidden=True)) == (["sleeps"], [])
    assert management.get(f"/agents/{agent_id}").json()["hidden_at"] is None
    answer = client.post("/events/stateful", content=stateful(agent_id, state("x")))
    assert answer.status_code == 200
    query("UPDATE agents SET hidden_at = now() WHERE id = $1", agent_id)  # its token is still valid
    client.get("/commands?wait=0")
    wait_until(lambda: listed() == ["sleeps"])
    wait_until(lambda: [event["kind"] for event in events(management, agent_id)].count("returned") == 2)
    audit = management.get("/audit", params={"subject": "agents", "key": str(agent_id)}).json()["items"]
    assert [entry["actor"] for entry in audit[1:]].count("the agent") >= 2


def events(management: httpx.Client, agent_id: UUID) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = management.get("/fleet/events", params={"agent_id": str(agent_id)}).json()["items"]
    return found


def test_nobody_is_removed_by_default(folder: Path, new_database: Callable[[], str]) -> None:
    url = new_database()
    with running_server(folder / "default", url) as server:
        management = server.management()
        wait_until(lambda: "silent agents" not in management.get("/nodes").json()[0]["duties"])
        assert querying(url)("SELECT count(*) FROM fleet_actions")[0][0] == 0
        assert "fleet statuses" in management.get("/nodes").json()[0]["duties"]
