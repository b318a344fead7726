"""Refused requests: which ones, when, and with readable answers."""

import time
from collections.abc import Callable
from contextlib import suppress
from itertools import product
from typing import Any
from uuid import UUID

import httpx
import jwt
import pytest
from support.batches import stateless
from support.heartbeats import wait_for_polls
from support.raw import connect, read_answer, request, send_parts
from support.server import KEY, Server, basic, new_id, running_server
from support.waiting import wait_until


@pytest.fixture(scope="module")
def agent_id(server: Server, management: httpx.Client) -> UUID:
    return server.enroll(management, "refusals")


def test_a_wrong_key_is_401_and_an_unknown_agent_403(server: Server, agent_id: UUID) -> None:
    client = server.client(server.agent_url)
    wrong = client.post("/login", json={"uuid": str(agent_id), "key": "x" * 32})
    assert (wrong.status_code, wrong.json()["message"]) == (401, "Invalid key")
    unknown = client.post("/login", json={"uuid": str(new_id()), "key": KEY})
    assert (unknown.status_code, unknown.json()["message"]) == (403, "Agent does not exist")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"uuid":1,"key":"k"}', b"\xff", b"[" * 8_000])
def test_a_malformed_login_is_400(server: Server, body: bytes) -> None:
    assert server.client(server.agent_url).post("/login", content=body).status_code == 400


def test_a_login_without_a_valid_uuid_is_422(server: Server) -> None:
    assert server.client(server.agent_url).post("/login", json={"uuid": "x", "key": KEY}).status_code == 422


def test_an_error_is_problem_json_with_what_real_agents_read(server: Server) -> None:
    answer = server.client(server.agent_url).get("/commands")
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json().keys() == {"type", "title", "status", "detail", "instance", "message", "code"}


@pytest.mark.parametrize("path", ["/commands", "/events", "/agents", "/groups", "/orders", "/states"])
def test_an_agents_token_does_not_open_the_management_api(server: Server, agent_id: UUID, path: str) -> None:
    assert server.client(server.management_url, server.token(agent_id)).get(path).status_code == 401


def test_a_users_token_does_not_open_the_agent_api(server: Server, management: httpx.Client) -> None:
    token = management.headers["Authorization"].removeprefix("Bearer ")
    assert server.client(server.agent_url, token).get("/commands?wait=0").status_code == 401


def test_a_token_signed_by_another_key_or_by_none_is_401(server: Server, agent_id: UUID) -> None:
    good = server.token(agent_id)
    claims = jwt.decode(good, options={"verify_signature": False})
    forged = jwt.encode(claims, "x" * 64, "HS256", headers=jwt.get_unverified_header(good) | {"alg": "HS256"})
    unsigned = jwt.encode(claims, None, "none", headers=jwt.get_unverified_header(good) | {"alg": "none"})
    for token in (forged, unsigned, good[:-4] + "AAAA", "a.b.c", "x"):
        assert server.client(server.agent_url, token).get("/commands?wait=0").status_code == 401


def test_a_body_without_a_token_is_refused_before_it_is_read(server: Server) -> None:
    before = server.resident_bytes()
    head = request("POST", "/events/stateless", None, b"", "Content-Length: 104857600")
    with connect(server.tls, server.agent_port) as connection:
        connection.sendall(head + b"x" * 1000)
        assert read_answer(connection).status == 401
        with suppress(OSError):
            for _ in range(1600):
                connection.sendall(b"x" * 65536)
        assert server.resident_bytes() - before < 5 * 2**20
    assert server.resident_bytes() - before < 5 * 2**20


def test_a_client_still_writing_reads_its_401(server: Server, agent_id: UUID) -> None:
    body = stateless(agent_id, {"pad": "x" * 1_500_000})
    whole = request("POST", "/events/stateless", server.token(agent_id)[:-4] + "AAAA", body)
    parts = [whole[at : at + 16384] for at in range(0, len(whole), 16384)]
    for _ in range(5):
        answer = send_parts(server.tls, server.agent_port, parts)
        assert (answer.status, b"message" in answer.body) == (401, True)


def test_a_connection_survives_the_refusal_of_a_small_body_and_is_closed_after_a_large_one(
    server: Server,
) -> None:
    def refused(size: int) -> dict[str, str]:
        with connect(server.tls, server.agent_port) as connection:
            whole = request("POST", "/events/stateless", None, b"x" * size).replace(b"Connection: close\r\n", b"")
            connection.sendall(whole)
            answer = read_answer(connection)
            assert answer.status == 401
            if "connection" not in answer.headers:
                connection.sendall(request("GET", "/", None))
                assert read_answer(connection).status == 200
            return answer.headers

    assert "connection" not in refused(1000)
    assert refused(1_000_000)["connection"] == "close"


def test_an_expired_token_is_401_with_its_own_code(server: Server, database_url: str, agent_id: UUID) -> None:
    with running_server(server.folder, database_url, token_lifetime_seconds=5) as other:
        started = time.monotonic()
        token = other.token(agent_id)
        known, unknown = (node.client(node.agent_url, token) for node in (other, server))
        wait_until(lambda: known.get("/commands?wait=0").status_code != 200)
        assert time.monotonic() - started > 9  # its lifetime and the leeway, minus the fraction that `exp` drops
        for client in (known, known, unknown):  # the node drops an expired token, or has never seen it
            answer = client.get("/commands?wait=0")
            assert (answer.status_code, answer.json()["code"]) == (401, 2707)
            assert answer.json()["message"] == "The token has expired."


def test_deleting_an_agent_ends_its_tokens_and_its_held_poll(server: Server, management: httpx.Client) -> None:
    agent_id = server.enroll(management, "deleted")
    token = server.token(agent_id)
    with connect(server.tls, server.agent_port) as connection:
        connection.sendall(request("GET", "/commands?wait=60", token))
        wait_for_polls(management, 1)
        assert management.delete(f"/agents/{agent_id}").status_code == 204
        assert read_answer(connection).status == 401  # a poll that ends by timeout would get 200
    assert server.client(server.agent_url, token).get("/commands?wait=0").status_code == 401
    assert server.client(server.agent_url).post("/login", json={"uuid": str(agent_id), "key": KEY}).status_code == 403


def test_the_real_agents_login_without_body_or_length_works(server: Server) -> None:
    for secret, status in ((None, 401), ("wrong", 401)):
        header = f"Authorization: {basic('admin', secret or '')}"
        answer = send_parts(
            server.tls, server.management_port, [request("POST", "/security/user/authenticate", None, b"", header)]
        )
        assert answer.status == status


def test_taken_ids_and_names_are_409_and_bad_ids_and_keys_422(server: Server, management: httpx.Client) -> None:
    taken = server.enroll(management, "taken")
    cases: list[tuple[dict[str, Any], int]] = [
        ({"id": str(taken), "name": "other"}, 409),
        ({"id": str(new_id()), "name": "taken"}, 409),
        ({"id": "0190b8a0-0000-5000-8000-000000000000", "name": "v5"}, 422),
        ({"name": "short", "key": "k" * 31}, 422),
        ({"name": "x", "groups": ["no such group"]}, 400),
        ({"name": "x", "groups": ["nosuchgroup"]}, 404),
        ({"name": ""}, 400),
    ]
    for body, status in cases:
        answer = management.post("/agents", json={"key": KEY} | body)
        assert answer.status_code == status, (body, answer.text)
    assert management.get("/agents", params={"name": "x"}).json()["items"] == []


def test_commands_that_cannot_be_expanded_create_nothing(
    management: httpx.Client, query: Callable[..., list[Any]], agent_id: UUID
) -> None:
    good = {"source": "Engine", "target": {"id": str(agent_id), "type": "agent"}, "action": {"name": "a"}, "timeout": 5}
    bad: list[tuple[Any, str]] = [
        ([good, good | {"target": {"id": str(new_id()), "type": "agent"}}], "commands[1].target.id"),
        ([good, good | {"target": {"id": "nobody", "type": "group"}}], "commands[1].target.id"),
        ([good | {"target": {"id": "not-a-uuid", "type": "agent"}}], "commands[0].target.id"),
        ([good | {"timeout": 0}], "commands[0].timeout"),
        ([good | {"source": "Elsewhere"}], "commands[0].source"),
        ([good | {"action": {"name": "a", "args": "text"}}], "commands[0].action.args"),
        ([{"action": {"name": "a"}}], "commands[0]: Missing arguments: [source, target, timeout]"),
        (
            [good, good | {"action": {"name": "set-group", "args": {}}}],
            'commands[1].action.args: "groups" is a required',
        ),
        ([good | {"action": {"name": "set-group", "args": {"groups": ["nobody"]}}}], "there is no group 'nobody'"),
        ([good | {"action": {"name": "set-group", "args": {"groups": "a"}}}], "commands[0].action.args.groups"),
        ([good | {"action": {"name": "set-group", "args": {"groups": ["a", 5]}}}], "commands[0].action.args.groups[1]"),
        (
            [good | {"action": {"name": "set-group", "args": {"groups": ["a"], "x": 1}}}],
            "commands[0].action.args: Additional properties",
        ),
        ([], "no commands"),
    ]
    for body, message in bad:
        answer = management.post("/commands", json={"commands": body})
        assert answer.status_code in {400, 422}
        assert message in answer.json()["message"]
    assert management.post("/commands").status_code == 400
    assert query("SELECT 1 FROM commands") == query("SELECT 1 FROM orders") == []


@pytest.mark.parametrize(
    "path",
    [
        "/agents?name=%00",
        "/agents?after=x",
        "/agents?group=%00",
        "/events?module=%00",
        "/states?after=x",
        "/orders?status=x",
        "/groups?limit=0",
        "/groups?after=%00",
        "/commands?limit=1001",
    ],
)
def test_a_query_that_cannot_be_answered_is_400(management: httpx.Client, path: str) -> None:
    assert management.get(path).status_code == 400


def test_an_invalid_wait_is_refused_and_is_not_a_server_error(server: Server, agent_id: UUID) -> None:
    client = server.client(server.agent_url, server.token(agent_id))
    assert client.get("/commands?wait=nan").status_code == 400
    assert client.get("/commands?wait=-1").status_code == 400


def test_every_route_except_the_public_ones_requires_a_token(server: Server, management: httpx.Client) -> None:
    public = {"/", "/ready", "/login", "/authentication", "/.well-known/jwks.json", "/security/user/refresh"}
    public |= {"/health/live", "/health/ready"}
    ids = dict.fromkeys(("agent", "request_id", "order_id", "event_id", "token_id", "webhook_id"), new_id())
    agent = server.client(server.agent_url, server.token(server.enroll(management, "schema")))
    for client, anonymous in (
        (agent, server.client(server.agent_url)),
        (management, server.client(server.management_url)),
    ):
        described = client.get("/schema/openapi.json").json()
        assert [server["url"] for server in described["servers"]] == ["/", "/api/v1"]
        assert len(described["paths"]) >= 10
        for path, methods in described["paths"].items():
            filled = path.format(name="x", service="x", group="x", **ids)
            for method, prefix in product(methods, ("", "/api/v1")):
                status = anonymous.request(method, prefix + filled).status_code
                assert (status == 401) == (path not in public), prefix + path


def test_bytes_that_are_not_text_are_400_everywhere(server: Server, management: httpx.Client, agent_id: UUID) -> None:
    client = server.client(server.agent_url, server.token(agent_id))
    assert client.post("/commands/results", content=b'{"results":"\xff"}').status_code == 400
    command = (
        b'{"source":"Engine","target":{"id":"%s","type":"agent"},"timeout":5,"action":{"name":"a","args":["\xff"]}}'
    )
    assert management.post("/commands", content=command % str(agent_id).encode()).status_code == 400


def test_the_plugin_path_answers_in_the_plugins_form(
    server: Server, management: httpx.Client, query: Callable[..., list[Any]]
) -> None:
    assert management.post("/groups", json={"name": "plugin"}).status_code == 201
    for number in range(12):
        server.enroll(management, f"plugin{number}", ("plugin",))
    body = {
        "timeout": 100,
        "action": {"args": ["/bin/x", "-a"], "name": "run", "version": "5"},
        "user": "Management API",
        "target": {"type": "group", "id": "plugin"},
        "source": "Engine",
    }
    # Only a trusted service may submit in its users' names.
    plugin = server.user(management, "dashboard", "service")
    assert management.post("/commands", json=body).status_code == 422
    answer = plugin.post("/_plugins/_command_manager/commands", json={"commands": [body]})
    assert (answer.status_code, answer.json()["_index"], answer.json()["result"]) == (200, "wazuh-commands", "OK")
    ids = {order["_id"] for order in answer.json()["orders"]}
    assert answer.json()["_documents"] == answer.json()["orders"]
    stored = query(
        "SELECT o.order_id::text, c.user_name, c.action_args::text FROM orders o JOIN commands c USING (request_id)"
    )
    assert {row[0] for row in stored} == ids
    assert {tuple(row)[1:] for row in stored} == {("Management API", '["/bin/x","-a"]')}


def test_the_pages_of_a_list_contain_every_item(management: httpx.Client) -> None:
    seen: list[str] = []
    after: dict[str, str] = {}
    while True:
        page = management.get("/agents", params={"limit": 5, "group": "plugin", **after}).json()
        seen += [agent["name"] for agent in page["items"]]
        if page["next"] is None:
            break
        after = {"after": page["next"]}
    assert sorted(seen) == sorted(f"plugin{number}" for number in range(12))
