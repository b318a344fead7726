"""Agents' descriptions replace the stored ones, once for each change, and no fault in them fails a request."""

import json
from collections.abc import Callable
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest
from support.server import KEY, Server
from support.waiting import PATIENCE, wait_until

from comms_api.database.connection import Engine
from comms_api.fleet.description import read_metadata
from comms_api.fleet.descriptions import Descriptions

HOST = {"hostname": "web-7", "os": {"name": "Debian", "type": "Linux", "version": "12"}, "ip": ["192.0.2.7"],
        "architecture": "x86_64"}  # fmt: skip
Query = Callable[..., list[asyncpg.Record]]


def send(client: httpx.Client, agent_id: UUID, **members: Any) -> None:
    """Send a batch whose metadata has these members."""
    metadata = json.dumps({"agent": {"id": str(agent_id), "name": "a", "groups": []} | members})
    answer = client.post("/events/stateless", content=f'{metadata}\n{{"module":"m"}}\n{{"x":1}}\n')
    assert answer.status_code == 204, answer.text


def log_in(server: Server, agent_id: UUID, user_agent: str) -> None:
    headers = {"User-Agent": user_agent}
    with httpx.Client(base_url=server.agent_url, verify=server.tls, headers=headers, timeout=PATIENCE) as client:
        assert client.post("/login", json={"uuid": str(agent_id), "key": KEY}).status_code == 200


def shown(management: httpx.Client, agent_id: UUID) -> dict[str, Any]:
    agent: dict[str, Any] = management.get(f"/agents/{agent_id}").json()
    return agent


def history(management: httpx.Client, agent_id: UUID) -> list[dict[str, Any]]:
    answer = management.get("/fleet/events", params={"agent_id": str(agent_id), "kind": "described"})
    assert answer.status_code == 200, answer.text
    return [event["details"] for event in answer.json()["items"]]


def test_a_batch_brings_the_description_up_to_date_and_the_filters_see_it(
    server: Server, management: httpx.Client
) -> None:
    agent_id = server.enroll(management, "described")
    client = server.log_in(agent_id)
    send(client, agent_id, type="Endpoint", version="v6.1.0", host=HOST)
    wait_until(lambda: shown(management, agent_id)["version"] == "v6.1.0")
    agent = shown(management, agent_id)
    assert (agent["type"], agent["host"]) == ("Endpoint", HOST)
    found = management.get("/agents", params={"version": "v6.1.*", "os": "debian"}).json()["items"]
    assert [one["id"] for one in found] == [str(agent_id)]
    wait_until(lambda: len(history(management, agent_id)) == 1)
    [change] = history(management, agent_id)
    assert change["before"] == {"type": "", "version": "", "host": {}}
    assert change["after"] == {"type": "Endpoint", "version": "v6.1.0", "host": HOST}
    assert management.get("/audit", params={"subject": "agents", "key": str(agent_id)}).json()["items"][1:] == []


def test_an_agent_of_an_external_database_is_described_and_keeps_its_type(
    server: Server, management: httpx.Client, query: Query
) -> None:
    agent_id = server.enroll(management, "from outside")
    query("UPDATE agents SET type = 'external' WHERE id = $1", agent_id)
    send(server.log_in(agent_id), agent_id, type="Endpoint", version="v6.1.0", host=HOST)
    wait_until(lambda: shown(management, agent_id)["version"] == "v6.1.0")
    assert shown(management, agent_id)["type"] == "external"


def test_a_login_sets_the_version_and_completes_the_host(server: Server, management: httpx.Client) -> None:
    agent_id = server.enroll(management, "polls only")
    log_in(server, agent_id, "WazuhXDR/v6.0.0 (Endpoint; x86_64; Debian)")
    wait_until(lambda: shown(management, agent_id)["version"] == "v6.0.0")
    agent = shown(management, agent_id)
    assert (agent["type"], agent["host"]) == ("Endpoint", {"os": {"name": "Debian"}, "architecture": "x86_64"})
    log_in(server, agent_id, "curl/8.0")

    def is_upgraded() -> bool:
        log_in(server, agent_id, "WazuhXDR/v6.2.0 (Endpoint; aarch64; Debian 12)")
        return bool(shown(management, agent_id)["version"] == "v6.2.0")

    wait_until(is_upgraded)  # the first login after a change may come too soon
    assert shown(management, agent_id)["host"] == agent["host"]


@pytest.mark.parametrize(
    "members",
    [
        {"type": 1, "version": ["v"], "host": "h"},
        {"version": "v\0" + "9" * 5_000, "host": {"hostname": {}, "ip": [1, "192.0.2.1", None] * 900, "os": []}},
        {"version": "\ud800", "host": {"hostname": "\udfff", "os": {"name": 5, "version": 12}}},
        {"type": "external", "version": "v1"},
        {"host": None},
        {"version": "v2", "padding": "x" * 100_000},
    ],
)
def test_a_faulty_description_fails_no_batch(server: Server, management: httpx.Client, members: dict[str, Any]) -> None:
    agent_id = server.enroll(management, f"faulty {len(str(members))} {sorted(members)}")
    client = server.log_in(agent_id)
    send(client, agent_id, **members)
    send(client, agent_id, version="good", type="Endpoint")

    def is_good() -> bool:
        send(client, agent_id, version="good", type="Endpoint")
        return shown(management, agent_id)["version"] == "good"

    wait_until(is_good)
    agent = shown(management, agent_id)
    assert agent["type"] == "Endpoint"
    assert len(str(agent)) < 10_000
    assert management.get("/nodes").json()[0]["late"] == []


def line(agent_id: UUID, version: str) -> bytes:
    return json.dumps({"agent": {"id": str(agent_id), "version": version}}).encode()


@pytest.fixture
def agent_id(query: Query) -> UUID:
    [[agent_id]] = query("INSERT INTO agents (id, name, key_hash) VALUES (uuid7(), uuid7()::text, '') RETURNING id")
    return UUID(str(agent_id))


@pytest.mark.anyio
async def test_a_repeated_description_is_not_compared_again_and_a_changing_one_is_stored_less_and_less_often(
    engine: Engine, agent_id: UUID
) -> None:
    descriptions, same = Descriptions(engine), line(agent_id, "v1")
    for version in ("v1", "v2"):
        descriptions.note_batch(agent_id, line(agent_id, version))
    assert descriptions.waiting == 1
    await descriptions.flush()
    descriptions.note_batch(agent_id, line(agent_id, "v3"))  # too soon after a change
    assert descriptions.waiting == 0
    other = Descriptions(engine)
    other.note_batch(agent_id, line(agent_id, "v2"))
    await other.flush()
    other.note_batch(agent_id, line(agent_id, "v2"))
    assert other.waiting == 0
    other.note_batch(agent_id, same)
    await other.flush()
    async with engine.connect() as connection:
        rows = await connection.driver.fetch(
            "SELECT details->'after'->>'version' FROM"
            " (SELECT id, details, agent_id, kind FROM outbox "
            "UNION ALL SELECT id, details, agent_id, kind FROM fleet_events)"
            " AS events WHERE agent_id = $1 AND kind = 'described' ORDER BY id",
            agent_id,
        )
    assert [row[0] for row in rows] == ["v2", "v1"]


@pytest.mark.anyio
async def test_an_agent_that_repeats_each_description_before_the_next_is_stored_less_and_less_often(
    engine: Engine, agent_id: UUID
) -> None:
    now, version = 1_000.0, 1
    descriptions = Descriptions(engine, lambda: now)
    for _ in range(200):
        now += 1
        descriptions.note_login(agent_id, f"agent/{version} (a; b; c)")
        await descriptions.flush()
        descriptions.note_login(agent_id, f"agent/{version + 1} (a; b; c)")
        version += descriptions.waiting
        await descriptions.flush()
    assert version < 10


@pytest.mark.anyio
async def test_the_queue_is_bounded(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("comms_api.fleet.descriptions.WAITING_MAXIMUM", 2)
    descriptions = Descriptions(engine)
    for number in range(5):
        agent_id = UUID(int=number)
        descriptions.note_batch(agent_id, line(agent_id, "v1"))
    assert descriptions.waiting == 2
    await descriptions.flush()  # agents that do not exist change nothing
    assert descriptions.waiting == 0


def test_a_line_without_a_description_is_ignored() -> None:
    assert read_metadata(b"[" * 10_000) is None
    assert read_metadata(b'{"agent":{"version":"' + b"v" * 20_000 + b'"}}') is None
