"""The audit trail: the database records every change with its actor and address, but no secrets."""

import json
from collections.abc import Callable
from typing import Any

import asyncpg
import httpx
import pytest
from support.batches import command
from support.server import KEY, PASSWORD, Server
from support.waiting import wait_until


def entries(management: httpx.Client, **query: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = management.get("/audit", params=query | {"limit": "1000"}).json()["items"]
    return items


def test_every_change_is_recorded_with_its_actor(server: Server, management: httpx.Client) -> None:
    management.post("/groups", json={"name": "audited"})
    agent_id = str(server.enroll(management, "audited", ("audited",)))
    operator = server.user(management, "auditor", "operator")
    operator.patch(f"/agents/{agent_id}", json={"labels": {"site": "one"}})
    request_id = operator.post("/commands", json=command(agent_id, user="auditor")).json()["commands"][0]["request_id"]
    operator.post(f"/commands/{request_id}/cancel")
    management.delete(f"/agents/{agent_id}")
    changes = [(entry["actor"], entry["operation"], entry["after"] and entry["after"]["labels"])
            for entry in entries(management, subject="agents", key=agent_id)]  # fmt: skip
    assert changes == [("admin", "insert", {}), ("auditor", "update", {"site": "one"}), ("admin", "delete", None)]
    assert {entry["address"] for entry in entries(management, key=agent_id)} == {"127.0.0.1"}
    assert [entry["operation"] for entry in entries(management, key=f"audited/{agent_id}")] == ["insert", "delete"]
    phases = [entry["after"]["phase"] for entry in entries(management, subject="commands", key=request_id)]
    assert phases == ["released", "cancelled"]
    assert {entry["actor"] for entry in entries(management, subject="commands")} == {"auditor"}


def test_an_order_that_is_cancelled_alone_is_recorded(server: Server, management: httpx.Client) -> None:
    answer = management.post("/commands", json=command(server.enroll(management, "one order"))).json()
    [order_id] = answer["commands"][0]["order_ids"]
    management.post(f"/orders/{order_id}/cancel")
    [entry] = entries(management, subject="orders", key=order_id)
    assert (entry["actor"], entry["address"], entry["after"]) == ("admin", "127.0.0.1", {"status": "cancelled"})


def test_the_trail_contains_no_secrets_and_no_sightings(server: Server, management: httpx.Client) -> None:
    agent_id = server.enroll(management, "discreet")
    before = len(entries(management))
    server.log_in(agent_id).get("/commands?wait=0")
    wait_until(lambda: management.get(f"/agents/{agent_id}").json()["poll_address"])
    assert len(entries(management)) == before
    assert management.patch(f"/agents/{agent_id}", json={"labels": {"site": "one"}}).status_code == 200
    lines = management.get("/audit/export").text.splitlines()
    assert len(lines) == before + 1
    assert all(word not in lines[-1] for word in ("poll", "last_seen_at", "last_login_at", "remote_address"))
    assert all(word not in json.dumps(lines) for word in (KEY, PASSWORD, "argon2", "_hash", "private_key"))


def test_a_reader_may_not_read_the_trail(server: Server, management: httpx.Client) -> None:
    assert server.user(management, "curious", "reader").get("/audit").status_code == 403


def test_manual_changes_are_recorded_and_the_trail_cannot_be_changed(
    management: httpx.Client, query: Callable[..., list[Any]]
) -> None:
    query("INSERT INTO groups (name) VALUES ('by-hand')")
    [entry] = entries(management, key="by-hand")
    assert entry["actor"].startswith("database: ")
    for statement in ("DELETE FROM audit", "UPDATE audit SET actor = 'x'", "TRUNCATE audit"):
        with pytest.raises(asyncpg.RaiseError, match="append-only"):
            query(statement)
