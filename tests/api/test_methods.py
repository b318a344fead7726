"""HEAD, OPTIONS and methods that a path does not have, on both APIs."""

import re
from itertools import product
from uuid import UUID

import httpx
import pytest
from support.batches import command
from support.raw import request, send_parts
from support.server import Server


@pytest.fixture(scope="module")
def agent_id(server: Server, management: httpx.Client) -> UUID:
    return server.enroll(management, "methods")


@pytest.fixture
def both(server: Server, management: httpx.Client, agent_id: UUID) -> tuple[httpx.Client, httpx.Client]:
    return server.log_in(agent_id), management


def test_head_answers_as_get_does_without_a_body(both: tuple[httpx.Client, httpx.Client], agent_id: UUID) -> None:
    for client in both:
        described = client.get("/schema/openapi.json").json()["paths"]
        paths = [re.sub("{.*?}", str(agent_id), path) for path in described if "get" in described[path]]
        assert len(paths) >= 5
        for path in (*paths, "/", "/api/v1/"):
            url = path + ("?wait=0" if "commands" in path else "")
            expected, answer = client.get(url, headers={"Accept-Encoding": "identity"}), client.head(url)
            assert (answer.status_code, answer.content) == (expected.status_code, b""), path
            names = [response.headers.keys() - {"transfer-encoding"} for response in (expected, answer)]
            assert names[0] == names[1], path
            assert answer.headers.get("content-type") == expected.headers.get("content-type")
    health, ready = both[0].head("/"), both[0].head("/ready")
    assert health.headers["content-length"] == ready.headers["content-length"] == "0"


def test_head_takes_no_orders_and_a_stream_ends_with_its_head(
    both: tuple[httpx.Client, httpx.Client], agent_id: UUID
) -> None:
    agent, management = both
    [submitted] = management.post("/commands", json=command(agent_id)).json()["commands"]
    for path in ("/commands", "/poll_commands", "/commands?wait=1", "/api/v1/commands"):
        assert agent.head(path).status_code == 200
    for suffix in ("/events", "/results"):
        answer = management.head(f"/commands/{submitted['request_id']}{suffix}")
        assert (answer.status_code, answer.content) == (200, b"")
    assert management.get(f"/orders/{submitted['order_ids'][0]}").json()["status"] == "pending"
    [order] = agent.get("/commands").json()["commands"]
    assert management.get(f"/orders/{order['order_id']}").json()["attempt"] == 1


@pytest.mark.parametrize("path", ["/", "/api/v1", "*", "http://localhost/"])
def test_options_on_the_health_path_needs_no_token(server: Server, path: str) -> None:
    for port in (server.agent_port, server.management_port):
        answer = send_parts(server.tls, port, [request("OPTIONS", path, None)])
        assert (answer.status, answer.headers["allow"], answer.body) == (204, "GET, OPTIONS, HEAD", b"")


def test_a_method_that_a_path_does_not_have_is_405_with_those_that_it_has(
    server: Server, both: tuple[httpx.Client, httpx.Client]
) -> None:
    wrong = [("DELETE", "/"), ("GET", "/login"), ("PUT", "/events/stateless"), ("HEAD", "/events/stateful")]
    for client, (method, path), lane in product(
        (both[0], server.client(server.agent_url)), wrong, ("", "?by=litestar")
    ):
        answer = client.request(method, path + lane)
        assert answer.status_code == 405, (method, path)
        options = client.options(path + lane)
        assert options.status_code == 204
        allowed = set(options.headers["allow"].split(", "))
        assert set(answer.headers["allow"].split(", ")) == allowed
        assert method not in allowed
        assert ("GET" in allowed) == ("HEAD" in allowed)
    answer = both[1].put("/commands")
    assert (answer.status_code, set(answer.headers["allow"].split(", "))) == (405, {"GET", "HEAD", "POST", "OPTIONS"})
    assert both[1].options("/nowhere").status_code == 404
