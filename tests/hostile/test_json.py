"""JSON that no route wants, on every route that takes a body: refused, with the field, and never a fault of ours."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from support.server import KEY, PASSWORD, Server, new_id, running_server

DEEP = b"[" * 1_200 + b"]" * 1_200
WRITING = {"post", "put", "patch"}
READ_BY_HAND = {
    ("post", "/commands"),
    ("post", "/_plugins/_command_manager/commands"),
    ("put", "/actions/{name}"),
    ("post", "/security/user/refresh"),
    ("post", "/login"),
    ("post", "/authentication"),
    ("put", "/configuration"),
}
"""The routes whose body the OpenAPI description does not have, and that refuse it before anything else."""


@pytest.fixture(scope="module")
def server(folder: Path, database_url: str) -> Iterator[Server]:
    with running_server(folder, database_url) as running:
        yield running


class Route(NamedTuple):
    client: httpx.Client
    method: str
    path: str
    members: list[str]
    """What its body has, by the OpenAPI description."""

    def send(self, body: bytes) -> httpx.Response:
        ids = dict.fromkeys(("request_id", "order_id", "token_id"), new_id())
        path = self.path.format(agent="somebody", name="x", service="x", group="x", **ids)
        return self.client.request(self.method, path, content=body)


def routes_of(client: httpx.Client) -> Iterator[Route]:
    """Yield the routes of an API that may have a body."""
    described = client.get("/schema/openapi.json").json()
    schemas = described["components"]["schemas"]
    for path, methods in described["paths"].items():
        for method in WRITING & methods.keys():
            content = methods[method].get("requestBody", {}).get("content", {}).get("application/json", {})
            name = content.get("schema", {}).get("$ref", "").rpartition("/")[2]
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
        if route.members or (route.method, route.path) in READ_BY_HAND:
            assert answer.status_code in {400, 422}, (route, answer.text)
            assert "`a`" in answer.text or "a: nested too deeply" in answer.text, (route, answer.text)


@pytest.mark.parametrize("value", [b"{}", b"[{}]", DEEP, b'"\\ud800"', b"1e999", b"null", b"[null]"])
def test_a_member_of_a_wrong_type_is_never_a_fault(routes: list[Route], value: bytes) -> None:
    for route in routes:
        for member in route.members or ["results", "uuid", "source", "target", "action", "schema"]:
            answer = route.send(b'{"%s": %s}' % (member.encode(), value))
            assert answer.status_code < 500, (route, member)


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"{", b"\xff", b'"', b"[" * 100_000, DEEP])
def test_a_body_that_is_no_object_is_never_a_fault(routes: list[Route], body: bytes) -> None:
    for route in routes:
        assert route.send(body).status_code < 500, route


@pytest.mark.parametrize(
    ("path", "body", "told"),
    [
        ("/groups/x/agents", {"agents": {}}, "agents: Expected `array`, got `object`"),
        ("/agents", {"name": "a", "key": KEY, "groups": {}}, "groups: Expected `array`, got `object`"),
        ("/agents", {"name": "a", "key": KEY, "groups": ["a", 5]}, "groups[1]: Expected `str`, got `int`"),
        ("/users", {"name": "a", "password": PASSWORD, "role": []}, "role: Expected `str`, got `array`"),
    ],
)
def test_a_fault_names_its_member(management: httpx.Client, path: str, body: dict[str, Any], told: str) -> None:
    answer = management.post(path, json=body)
    assert (answer.status_code, answer.json()["detail"]) == (400, told)
