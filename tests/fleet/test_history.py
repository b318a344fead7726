"""The history of agents and nodes: each change of their state is an event."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest
from support.server import Server, running_server, start_server
from support.waiting import wait_until

from comms_api.database.connection import Engine
from comms_api.fleet.statuses import Statuses, begin_check

Query = Callable[..., list[asyncpg.Record]]


def events(management: httpx.Client, **query: Any) -> list[dict[str, Any]]:
    answer = management.get("/fleet/events", params=query)
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


def kinds(management: httpx.Client, agent_id: UUID) -> list[str]:
    return [event["kind"] for event in events(management, agent_id=str(agent_id))]


def wait_for(management: httpx.Client, agent_id: UUID, expected: list[str]) -> None:
    wait_until(lambda: kinds(management, agent_id) == expected, says=lambda: kinds(management, agent_id))


def test_the_life_of_an_agent_is_a_list_of_events(server: Server, management: httpx.Client, query: Query) -> None:
    for name in ("first", "second"):
        management.post("/groups", json={"name": name})
    agent_id = server.enroll(management, "lives", ("first",))
    client = server.log_in(agent_id)
    wait_for(management, agent_id, expected := ["enrolled", "moved", "active"])
    management.put(f"/groups/second/agents/{agent_id}")
    management.delete(f"/groups/first/agents/{agent_id}")
    wait_for(management, agent_id, expected := [*expected, "moved", "moved"])
    query("UPDATE agents SET last_seen_at = last_seen_at - interval '1 day' WHERE id = $1", agent_id)
    wait_for(management, agent_id, expected := [*expected, "disconnected"])
    client.get("/commands?wait=0")
    wait_for(management, agent_id, expected := [*expected, "active"])
    for is_blocked in (True, True, False):
        management.patch(f"/agents/{agent_id}", json={"is_blocked": is_blocked})
    management.delete(f"/agents/{agent_id}")
    wait_for(management, agent_id, [*expected, "blocked", "unblocked", "removed"])
    found = events(management, agent_id=str(agent_id))
    assert {event["agent_name"] for event in found} == {"lives"}
    assert [event["details"] for event in found if event["kind"] == "moved"] == [
        {"by": "admin", "joined": "first"},
        {"by": "admin", "joined": "second"},
        {"by": "admin", "left": "first"},
    ]
    assert [event["details"]["before"] for event in found if event["kind"] in {"active", "disconnected"}] == [
        "never_connected",
        "active",
        "disconnected",
    ]
    assert "key_hash" not in str(found)


def test_nodes_that_join_drain_leave_and_are_lost_are_events_and_in_the_log_of_the_others(
    folder: Path, new_database: Callable[[], str]
) -> None:
    url = new_database()
    with running_server(folder / "stays", url, node_name="stays") as stays:
        management = stays.management()

        def seen(node: str) -> list[str]:
            return [event["kind"] for event in events(management, node=node) if event["agent_id"] is None]

        wait_until(lambda: seen("stays") == ["node_joined"])
        stopped = start_server(folder / "stops", url, node_name="stops", secret_file=folder / "stays/data/secret")
        management.post("/nodes/stops/drain")
        wait_until(lambda: seen("stops") == ["node_joined", "node_draining"])
        management.post("/nodes/stops/resume")
        wait_until(lambda: seen("stops")[2:] == ["node_resumed"])
        stopped.stop()
        wait_until(lambda: seen("stops")[-1] == "node_left")
        killed = start_server(folder / "killed", url, node_name="killed", secret_file=folder / "stays/data/secret")
        agent_id = stays.enroll(management, "ghost")
        killed.log_in(agent_id)
        wait_until(lambda: kinds(management, agent_id) == ["enrolled", "active"])
        killed.stop(signal.SIGKILL)
        wait_until(lambda: seen("killed") == ["node_joined", "node_lost"])
        wait_until(lambda: kinds(management, agent_id)[2:] == ["disconnected"])
        log = folder / "stays" / "log"
        wait_until(lambda: "node killed, process 0: is lost" in log.read_text())
        sentences = ("has joined", "is draining", "accepts agents again", "has left")
        assert all(f"node stops, process 0: {sentence}" in log.read_text() for sentence in sentences)
        assert "node stays, process 0" not in log.read_text()


def test_a_paused_node_that_was_lost_is_back(folder: Path, new_database: Callable[[], str]) -> None:
    url = new_database()
    with (
        running_server(folder / "watches", url, node_name="watches") as watches,
        running_server(
            folder / "paused", url, node_name="paused", secret_file=folder / "watches/data/secret"
        ) as paused,
    ):
        management = watches.management()
        paused.process.send_signal(signal.SIGSTOP)
        wait_until(lambda: [event["kind"] for event in events(management, node="paused")][1:] == ["node_lost"])
        paused.process.send_signal(signal.SIGCONT)
        wait_until(lambda: events(management, node="paused")[-1]["kind"] == "node_returned")


@pytest.mark.anyio
async def test_one_process_at_a_time_compares_the_statuses(engine: Engine) -> None:
    async with engine.connect() as connection:
        assert await begin_check(connection, "test", 60)
        assert not await begin_check(connection, "test", 60)
        assert await begin_check(connection, "test", 0)


@pytest.mark.anyio
async def test_the_first_status_of_an_agent_of_an_earlier_release_is_no_event(
    engine: Engine,
) -> None:
    async with engine.connect() as connection:
        driver = connection.driver
        await driver.execute(
            "INSERT INTO agents (id, name, key_hash, recorded_status, last_seen_at)"
            " SELECT uuid7(), 'old ' || n, '', NULL, now() - interval '1 day' FROM generate_series(1, 3000) AS n"
        )
        await driver.execute("DELETE FROM fleet_checks")
        await Statuses(engine).record()
        old = "FROM agents WHERE name LIKE 'old %' AND recorded_status = 'disconnected'"
        assert await driver.fetchval(f"SELECT count(*) {old}") == 3000
        found = "SELECT count(*) FROM outbox WHERE kind = 'disconnected' AND agent_name LIKE 'old %'"
        assert await driver.fetchval(found) == 0
