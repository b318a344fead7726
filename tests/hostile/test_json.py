"""Invalid JSON on every route with a body is refused with the field's name, never with a 500."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import zstandard
from support.batches import command
from support.others import assert_others_are_served
from support.server import KEY, PASSWORD, Server, new_id, running_server
from support.speed import assert_no_long_step, slowness

DEEP = b"[" * 1_200 + b"]" * 1_200
WRITING = {"post", "put", "patch"}
CHECKED_FIRST = {("post", "/enroll"), ("post", "/services/{service}/commands/results")}
"""Routes that refuse these requests before they read the body."""


@pytest.fixture(scope="module")
def server(folder: Path, database_url: str) -> Iterator[Server]:
    with running_server(folder, database_url) as running:
        yield running


class Route(NamedTuple):
    client: httpx.Client
    method: str
    path: str
    members: list[str]
    """The body's schema in the OpenAPI description."""

    def send(self, body: bytes, headers: dict[str, str] | None = None) -> httpx.Response:
        ids = dict.fromkeys(("request_id", "order_id", "token_id", "webhook_id"), new_id())
        path = self.path.format(agent="somebody", name="x", service="x", group="x", **ids)
        return self.client.request(self.method, path, content=body, headers=headers)


def routes_of(client: httpx.Client) -> Iterator[Route]:
    """Yield the routes of an API that may have a body."""
    described = client.get("/schema/openapi.json").json()
    schemas = described["components"]["schemas"]
    for path, methods in described["paths"].items():
        for method in WRITING & methods.keys():
            content = methods[method].get("requestBody", {}).get("content", {}).get("application/json", {})
            schema = content.get("schema", {})
            name = schema.get("anyOf", [schema])[0].get("$ref", "").rpartition("/")[2]
            members = schemas.get(name, {}).get("properties", ())
            yield Route(client, method, path, list(members))


@pytest.fixture(scope="module")
def routes(server: Server, management: httpx.Client) -> list[Route]:
    agent = server.log_in(server.enroll(management, "sender"))
    server.enroll(management, "somebody")
    return [*routes_of(management), *routes_of(agent)]


def test_deep_json_is_refused_by_every_route_and_the_member_is_named(routes: list[Route]) -> None:
    for route in routes:
        answer = route.send(b'{"a": %s}' % DEEP)
        assert answer.status_code < 500, route
        if route.members and (route.method, route.path) not in CHECKED_FIRST:
            assert answer.status_code in {400, 422}, (route, answer.text)
            assert "`a`" in answer.text or "a: nested too deeply" in answer.text, (route, answer.text)


@pytest.mark.parametrize("value", [b"{}", b"[{}]", DEEP, b'"\\ud800"', b"1e999", b"null", b"[null]"])
def test_a_member_of_a_wrong_type_is_never_a_500(routes: list[Route], value: bytes) -> None:
    for route in routes:
        for member in route.members or ["results", "uuid", "source", "target", "action", "schema"]:
            answer = route.send(b'{"%s": %s}' % (member.encode(), value))
            assert answer.status_code < 500, (route, member)


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"{", b"\xff", b'"', b"[" * 100_000, DEEP])
def test_a_body_that_is_not_an_object_is_never_a_500(routes: list[Route], body: bytes) -> None:
    for route in routes:
        assert route.send(body).status_code < 500, route


@pytest.mark.parametrize(
    ("path", "body", "detail"),
    [
        ("/groups/x/agents", {"agents": {}}, "agents: Expected `array`, got `object`"),
        ("/agents", {"name": "a", "key": KEY, "groups": {}}, "groups: Expected `array`, got `object`"),
        ("/agents", {"name": "a", "key": KEY, "groups": ["a", 5]}, "groups[1]: Expected `str`, got `int`"),
        ("/users", {"name": "a", "password": PASSWORD, "role": []}, "role: Expected `str`, got `array`"),
    ],
)
def test_a_fault_names_its_member(management: httpx.Client, path: str, body: dict[str, Any], detail: str) -> None:
    answer = management.post(path, json=body)
    assert (answer.status_code, answer.json()["detail"]) == (400, detail)


def test_a_kilobyte_that_becomes_megabytes_of_json_is_refused_by_every_route_at_little_cost(
    server: Server, management: httpx.Client, routes: list[Route]
) -> None:
    quiet = server.enroll(management, "quiet")
    reports = {"/commands/results", "/services/{service}/commands/results"}
    json_routes = [route for route in routes if route.path not in reports and "/files/" not in route.path]
    names = b",".join([b'"a"'] * 500_000)
    bodies = {name: b'{"%s":[%s]}' % (name.encode(), names) for name in ("agents", "groups", "x")}
    before = server.cpu_seconds()
    sent = 0
    for route in json_routes:
        for body in bodies.values():
            answer = route.send(zstandard.compress(body), {"Content-Encoding": "zstd"})
            assert answer.status_code < 500, (route, answer.text)
            sent += 1
    assert (server.cpu_seconds() - before) / sent < 0.1 * slowness()
    assert_others_are_served(server, management, quiet)


def test_a_group_accepts_a_bounded_number_of_names_at_once(management: httpx.Client) -> None:
    assert management.post("/groups", json={"name": "many"}).status_code == 201
    answer = management.post("/groups/many/agents", json={"agents": ["a"] * 10_001})
    assert answer.status_code == 400
    assert "agents: Expected `array` of length <= 10000" in answer.json()["detail"]


def test_the_faults_of_many_commands_are_truncated(management: httpx.Client) -> None:
    answer = management.post("/commands", json=[command("nobody", "group")] * 100)
    assert answer.status_code == 422
    assert answer.json()["detail"].count("there is no group") == 10


def test_very_many_results_are_refused_or_recorded_without_a_long_step(
    server: Server, management: httpx.Client
) -> None:
    agent = server.log_in(server.enroll(management, "reporter"))
    body = zstandard.compress(b'{"results":[%s]}' % b",".join([b"{}"] * 5_000_000))
    before = server.cpu_seconds()
    answer = agent.post("/commands/results", content=body, headers={"Content-Encoding": "zstd"})
    assert (answer.status_code, answer.json()["detail"]) == (413, "A request has at most 10000 results.")
    assert server.cpu_seconds() - before < 0.5 * slowness()
    unreadable = agent.post("/commands/results", json={"results": [{}] * 10_000})
    assert [outcome["status"] for outcome in unreadable.json()["results"]] == [400] * 10_000
    unknown = [{"order_id": str(new_id()), "result": {"code": 0}} for _ in range(10_000)]
    outcomes = agent.post("/commands/results", json={"results": unknown}).json()["results"]
    assert [outcome["order_id"] for outcome in outcomes] == [report["order_id"] for report in unknown]
    assert {outcome["status"] for outcome in outcomes} == {404}
    assert_no_long_step(server)


def test_results_that_are_not_a_list_are_malformed_however_long_the_body_is(
    server: Server, management: httpx.Client
) -> None:
    agent = server.log_in(server.enroll(management, "unreadable"))
    body = b'{"results":{},"more":[%s]}' % b",".join([b"0"] * 20_000)
    answer = agent.post("/commands/results", content=body)
    assert answer.status_code == 400
    assert "Expected `array`, got `object`" in answer.json()["detail"]
