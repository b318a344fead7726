"""Unchanged callers of the command manager plugin: HTTP Basic, their sources and their users."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from support.batches import command
from support.server import PASSWORD, Server, basic
from support.waiting import wait_until

PATH = "/_plugins/_command_manager/commands"


@pytest.fixture(scope="module")
def caller(server: Server, management: httpx.Client) -> httpx.Client:
    """A service that sends its name and password with each request, and no token."""
    server.user(management, "dashboard", "service")
    client = server.client(server.management_url)
    client.headers["Authorization"] = basic("dashboard", PASSWORD)
    return client


def refresh(**members: Any) -> dict[str, Any]:
    return command("rbac", "server", action="refresh", **({"user": None} | members))


def submit(client: httpx.Client, **members: Any) -> httpx.Response:
    return client.post(PATH, json={"commands": [refresh(**members)]})


def test_a_caller_sends_its_password_with_each_request(caller: httpx.Client) -> None:
    for _ in range(3):
        answer = submit(caller)
        assert (answer.status_code, answer.json()["result"]) == (200, "OK"), answer.text
    assert caller.post(f"/api/v1{PATH}", json=refresh()).status_code == 200


def test_a_password_is_checked_once(server: Server, management: httpx.Client, query: Callable[..., list[Any]]) -> None:
    server.user(management, "frequent", "service")
    client = server.client(server.management_url)
    client.headers["Authorization"] = basic("frequent", PASSWORD)
    assert submit(client).status_code == 200
    query("UPDATE users SET password_hash = 'none' WHERE name = 'frequent'")  # a manual change revokes no tokens
    assert submit(client).status_code == 200


@pytest.mark.parametrize("credentials", ["", "Basic nonsense", basic("dashboard", "wrong"), basic("nobody", PASSWORD)])
def test_unknown_callers_are_asked_for_credentials(caller: httpx.Client, credentials: str) -> None:
    answer = caller.post(PATH, json=refresh(), headers={"Authorization": credentials})
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Bearer, Basic realm=")


def test_no_other_call_takes_a_password(server: Server, caller: httpx.Client) -> None:
    assert caller.post("/commands", json=refresh()).status_code == 401
    assert caller.get("/agents").status_code == 401
    with server.client(server.agent_url) as client:
        client.headers = caller.headers
        assert client.get("/commands?wait=0").status_code == 401


def test_a_reader_may_not_submit_by_password_either(server: Server, management: httpx.Client) -> None:
    server.user(management, "curious", "reader")
    client = server.client(server.management_url)
    client.headers["Authorization"] = basic("curious", PASSWORD)
    assert submit(client).status_code == 403


def test_an_old_password_is_refused_at_once(server: Server, management: httpx.Client) -> None:
    server.user(management, "changing", "service")
    client = server.client(server.management_url)
    client.headers["Authorization"] = basic("changing", PASSWORD)
    assert submit(client).status_code == 200
    assert management.patch("/users/changing", json={"password": "another good password"}).status_code == 204
    wait_until(lambda: submit(client).status_code == 401)
    client.headers["Authorization"] = basic("changing", "another good password")
    wait_until(lambda: submit(client).status_code == 200)
    assert management.delete("/users/changing").status_code == 204
    wait_until(lambda: submit(client).status_code == 401)


@pytest.mark.parametrize("source", ["Content Manager", "Content manager"])
def test_the_content_manager_is_one_source_in_both_spellings(
    caller: httpx.Client, management: httpx.Client, source: str
) -> None:
    answer = submit(caller, source=source, user=source)
    [order] = answer.json()["orders"]
    assert management.get(f"/orders/{order['_id']}").json()["source"] == "Content manager"
    for spelling in ("Content Manager", "Content manager"):
        found = management.get("/commands", params={"source": spelling, "user": source}).json()["items"]
        assert len(found) == 1


@pytest.mark.parametrize("user", ["Management API", "ünïcode / <admin@example.org>", "é" * 1_024])
def test_a_service_names_its_users_by_any_text(caller: httpx.Client, management: httpx.Client, user: str) -> None:
    answer = submit(caller, user=user)
    assert answer.status_code == 200, answer.text
    [order] = answer.json()["orders"]
    assert management.get(f"/orders/{order['_id']}").json()["user"] == user
