"""The diagnosis of an agent names the reasons why it waits."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import httpx
from support.batches import command
from support.server import KEY, Server
from support.waiting import wait_until

Query = Callable[..., list[asyncpg.Record]]


def diagnose(management: httpx.Client, agent_id: UUID) -> dict[str, Any]:
    answer = management.get(f"/agents/{agent_id}/diagnosis")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def submit(management: httpx.Client, agent_id: UUID, **options: object) -> str:
    answer = management.post("/commands", json=command(str(agent_id), action="ping", **options))
    assert answer.status_code == 201, answer.text
    request_id: str = answer.json()["commands"][0]["request_id"]
    return request_id


def test_each_open_order_has_the_reason_why_it_is_open(server: Server, management: httpx.Client, query: Query) -> None:
    agent_id = server.enroll(management, "patient")
    client = server.log_in(agent_id)
    submit(management, agent_id, timeout=600)
    assert len(client.get("/commands?wait=0").json()["commands"]) == 1
    requests = {
        "start": submit(management, agent_id, start_at=(datetime.now(UTC) + timedelta(hours=1)).isoformat()),
        "due": submit(management, agent_id, priority=9),
        "paused": submit(management, agent_id),
        "expired": submit(management, agent_id),
    }
    management.post(f"/commands/{requests['paused']}/pause").raise_for_status()
    query("UPDATE orders SET expires_at = now() - interval '1 ms' WHERE request_id = $1", UUID(requests["expired"]))
    query("UPDATE orders SET offer_at = now() + interval '1 hour' WHERE attempt > 0 AND agent_id = $1", agent_id)
    found = diagnose(management, agent_id)
    reasons = {order["request_id"]: order["reason"] for order in found["orders"]}
    by_request = {request_id: reason for reason, request_id in requests.items()}
    assert {by_request.get(request_id, "leased"): reason for request_id, reason in reasons.items()} in (
        {reason: reason for reason in ("leased", "start", "due", "paused", "expired")},
        {reason: reason for reason in ("leased", "start", "due", "paused")},  # the expiry may be faster
    )
    assert found["orders"][0]["reason"] == "due", "the most urgent order is first"
    assert f"comms-api commands resume {requests['paused']}" in " ".join(found["findings"])


def test_a_rollout_and_its_stop_hold_orders_back(server: Server, management: httpx.Client) -> None:
    management.post("/groups", json={"name": "waves"}).raise_for_status()
    agents = [server.enroll(management, f"wave-{number}", ("waves",)) for number in range(3)]
    rollout = {"max_in_flight": 1, "failure_ratio": 0.1, "failures_after": 1}
    body = command("waves", "group", "ping", rollout=rollout)
    management.post("/commands", json=body).raise_for_status()

    def reasons() -> list[str]:
        return [order["reason"] for agent_id in agents for order in diagnose(management, agent_id)["orders"]]

    wait_until(lambda: sorted(reasons()) == ["due", "rollout", "rollout"], says=reasons)
    [first] = [agent for agent in agents if diagnose(management, agent)["orders"][0]["reason"] == "due"]
    client = server.log_in(first)
    [order] = client.get("/commands?wait=0").json()["commands"]
    result = {"order_id": order["order_id"], "result": {"code": 1, "message": "no"}}
    client.post("/commands/results", json={"results": [result]}).raise_for_status()
    wait_until(lambda: reasons() == ["stopped", "stopped"], says=reasons)
    [waiting, _] = [agent for agent in agents if agent != first]
    assert "more than the ratio 0.1 allows" in " ".join(diagnose(management, waiting)["findings"])


def test_a_held_poll_is_seen_and_its_end_as_well(server: Server, management: httpx.Client, query: Query) -> None:
    agent_id = server.enroll(management, "poller")
    assert diagnose(management, agent_id)["findings"] == ["it has never connected"]
    client = server.log_in(agent_id)
    with ThreadPoolExecutor(1) as pool:
        poll = pool.submit(client.get, "/commands?wait=60")
        wait_until(lambda: diagnose(management, agent_id)["poll"] == "held")
        wait_until(lambda: diagnose(management, agent_id)["agent"]["status"] == "active")
        assert diagnose(management, agent_id)["findings"] == [
            "the agent waits for nothing: it is active, and no order is open"
        ]
        submit(management, agent_id)
        assert len(poll.result().json()["commands"]) == 1
    wait_until(lambda: diagnose(management, agent_id)["poll"] == "possible")
    query("UPDATE agents SET polled_at = now() - interval '1 hour' WHERE id = $1", agent_id)
    found = diagnose(management, agent_id)
    assert found["poll"] == "none"
    assert "it is active but holds no poll, so it gets orders only when it polls again" in found["findings"]


def test_blocks_revoked_tokens_addresses_and_rotations_are_named(
    server: Server, management: httpx.Client, query: Query
) -> None:
    agent_id = server.enroll(management, "shut-out")
    server.log_in(agent_id)
    wait_until(lambda: diagnose(management, agent_id)["agent"]["last_login_at"])
    change = {"is_blocked": True, "allowed_addresses": ["192.0.2.0/24"]}
    management.patch(f"/agents/{agent_id}", json=change).raise_for_status()
    query("UPDATE agents SET next_key_hash = 'x' WHERE id = $1", agent_id)
    findings = " ".join(diagnose(management, agent_id)["findings"])
    assert "the agent is blocked" in findings
    assert "its last address 127.0.0.1 is none of its allowed addresses" in findings
    assert "its tokens were revoked at" in findings
    assert "it has submitted a new key" in findings


def test_failed_logins_and_refused_key_requests_are_listed(
    server: Server, management: httpx.Client, query: Query
) -> None:
    agent_id = server.enroll(management, "guessed")
    credentials = {"uuid": str(agent_id), "key": KEY[::-1]}
    refusals = [server.client(server.agent_url).post("/login", json=credentials).status_code for _ in range(7)]
    assert refusals[0] == 401
    query(
        "INSERT INTO key_lookups VALUES ($1, gen_random_uuid(), now() + interval '1 minute', 4, 'no such agent')",
        f"id:{agent_id}",
    )
    found = diagnose(management, agent_id)
    [failed] = found["failed_logins"]
    assert failed["network"] == "127.0.0.1"
    assert failed["failures"] > 1
    findings = " ".join(found["findings"])
    assert "logins with a wrong key failed from 127.0.0.1" in findings
    assert "a key request was refused: no such agent" in findings


def test_files_that_are_not_applied_are_named(server: Server, management: httpx.Client) -> None:
    management.post("/groups", json={"name": "filed"}).raise_for_status()
    agent_id = server.enroll(management, "drifting", ("filed",))
    management.put("/groups/filed/files/filed.yml", content="a: 1\n").raise_for_status()
    found = diagnose(management, agent_id)
    assert found["configuration"] == "pending"
    assert "it does not run the current files of its groups yet" in found["findings"]


def test_an_unknown_agent_has_no_diagnosis(management: httpx.Client) -> None:
    assert management.get("/agents/nobody/diagnosis").status_code == 404
