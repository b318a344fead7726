"""A service reads the commands and orders that it has submitted, and no others."""

from uuid import UUID, uuid4

import httpx
import pytest
from support.batches import command
from support.server import Server


@pytest.fixture(scope="module")
def plugin(server: Server, management: httpx.Client) -> httpx.Client:
    return server.user(management, "plugin", "service")


@pytest.fixture(scope="module")
def indexer(server: Server, management: httpx.Client) -> httpx.Client:
    return server.user(management, "indexer", "service")


@pytest.fixture
def agent_id(server: Server, management: httpx.Client) -> UUID:
    return server.enroll(management, f"agent {uuid4()}")


def submit(client: httpx.Client, agent_id: UUID, **changes: str) -> tuple[str, str]:
    """Submit a command; return its id and the id of its order."""
    answer = client.post("/commands", json=command(agent_id, **changes))
    assert answer.status_code == 201, answer.text
    [submitted] = answer.json()["commands"]
    return submitted["request_id"], submitted["order_ids"][0]


def test_a_service_sees_only_what_it_has_submitted_whomever_it_names(
    management: httpx.Client, plugin: httpx.Client, indexer: httpx.Client, agent_id: UUID
) -> None:
    # A service may name any user, even another service or a person.
    mine, [theirs, other] = (
        submit(plugin, agent_id, user="indexer"),
        [
            submit(indexer, agent_id, user="plugin"),
            submit(management, agent_id),
        ],
    )
    listed = plugin.get("/commands").json()["items"], plugin.get("/orders").json()["items"]
    assert [[item["request_id"] for item in items] for items in listed] == [[mine[0]], [mine[0]]]
    assert plugin.get(f"/orders?agent_id={agent_id}&user=indexer").json()["items"] == listed[1]
    assert plugin.get(f"/orders?request_id={theirs[0]}").json()["items"] == []
    for request_id, order_id, status in ((*mine, 200), (*theirs, 404), (*other, 404)):
        paths = [f"/commands/{request_id}{tail}" for tail in ("", "/wait?timeout=0", "/results", "/events")]
        for path in (*paths[:3], f"/orders/{order_id}"):
            assert plugin.get(path).status_code == status, path
        with plugin.stream("GET", paths[3]) as events:
            assert events.status_code == status
    shown = {item["request_id"] for item in management.get("/commands").json()["items"]}
    assert shown >= {mine[0], theirs[0], other[0]}


def test_a_service_still_changes_nothing(plugin: httpx.Client, agent_id: UUID) -> None:
    request_id, order_id = submit(plugin, agent_id)
    for path in (f"/commands/{request_id}/cancel", f"/commands/{request_id}/pause", f"/orders/{order_id}/cancel"):
        assert plugin.post(path).status_code == 403
    assert plugin.get("/agents").status_code == 403


def test_commands_of_the_plugin_path_belong_to_the_service_too(plugin: httpx.Client, agent_id: UUID) -> None:
    body = {"commands": [command(agent_id, user="somebody")]}
    answer = plugin.post("/_plugins/_command_manager/commands", json=body)
    [order] = answer.json()["orders"]
    assert plugin.get(f"/orders/{order['_id']}").json()["user"] == "somebody"


def test_orders_are_filtered_by_result_code(server: Server, management: httpx.Client) -> None:
    agent_id = server.enroll(management, "codes")
    agent = server.log_in(agent_id)
    ids = [submit(management, agent_id)[1] for _ in range(3)]
    assert len(agent.get("/commands").json()["commands"]) == 3
    results = [{"order_id": order_id, "result": {"code": code}} for order_id, code in zip(ids, (0, 3, 4), strict=True)]
    assert agent.post("/commands/results", json={"results": results}).status_code == 200
    for order_id, code in zip(ids, (0, 3, 4), strict=True):
        found = management.get(f"/orders?agent_id=codes&code={code}").json()
        assert [order["order_id"] for order in found["items"]] == [order_id]
