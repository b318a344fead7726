"""PostgreSQL cannot store NUL: every text of a request that contains it is refused with the name of its field."""

import re
from collections.abc import Callable, Iterator
from importlib import import_module
from pkgutil import walk_packages
from typing import Any
from uuid import UUID

import httpx
import msgspec
import pytest
from msgspec.inspect import StrType, StructType, Type, type_info
from support.batches import command
from support.server import KEY, Server

import comms_api
from comms_api.app.apis import MANAGEMENT_HANDLERS
from comms_api.protocol import contains_nul

Query = Callable[..., list[Any]]

OWN_CHECKS = {
    "Credentials.uuid": "is read as a UUID, or matches a pattern",
    "Credentials.key": "is hashed",
    "NextKey.current_key": "is hashed",
    "NextKey.next_key": "is hashed",
    "NewUser.password": "is hashed",
    "UserChange.password": "is hashed",
    "PasswordChange.old": "is hashed",
    "PasswordChange.new": "is hashed",
    "Refresh.refresh_token": "is hashed",
    "OrderResult.order_id": "is read as a UUID",
    "Result.message": "has NUL replaced: a report is not refused for it",
    "Rejection.rejected": "is only tested for being empty",
    "_Named.order_id": "is only sent back",
    **dict.fromkeys(("Signed.payload", "Signed.signature", "Signed.key"), "must be base64"),
}
"""Texts of requests that need no pattern, and the reasons."""


READERS = {"comms_api.commands.submission.requests", "comms_api.orders.reports"}
"""Modules besides the routes that decode bodies."""


def request_models() -> Iterator[type]:
    """Yield the type of every body, as routes declare it or decode it."""
    for handler in MANAGEMENT_HANDLERS:
        if (data := handler.parsed_fn_signature.parameters.get("data")) is not None:
            yield data.annotation
    for module in walk_packages(comms_api.__path__, "comms_api."):
        if ".routes" in module.name or module.name in {
            "comms_api.commands.submission.requests",
            "comms_api.orders.reports",
        }:
            for value in vars(import_module(module.name)).values():
                if isinstance(value, msgspec.json.Decoder):
                    yield value.type


def texts_of(one: Type, where: str) -> Iterator[tuple[str, StrType]]:
    """Yield the texts in a type, each with the member that has it."""
    if isinstance(one, StrType):
        yield where, one
    elif isinstance(one, StructType):
        for field in one.fields:
            yield from texts_of(field.type, f"{one.cls.__name__}.{field.name}")
    else:
        for inner in types_in(one):
            yield from texts_of(inner, where)


def types_in(one: Type) -> Iterator[Type]:
    for name in ("type", "item_type", "key_type", "value_type"):
        if isinstance(inner := getattr(one, name, None), Type):
            yield inner
    for name in ("types", "item_types"):
        yield from getattr(one, name, ())


def test_every_text_of_every_request_refuses_nul_or_says_why_not() -> None:
    models = set(request_models())
    assert len(models) >= 12
    texts = {where: text for model in models for where, text in texts_of(type_info(model), "the keys of an object")}
    unguarded = {where for where, text in texts.items() if not text.pattern or re.search(text.pattern, "a\0b")}
    assert unguarded - {"the keys of an object"} == OWN_CHECKS.keys()


@pytest.fixture(scope="module")
def agent_id(server: Server, management: httpx.Client) -> UUID:
    return server.enroll(management, "texts")


NUL = "a\0b"
ENROLLMENTS: list[tuple[str, dict[str, Any]]] = [
    ("name", {"name": NUL}),
    ("key", {"key": KEY + NUL}),
    ("type", {"type": NUL}),
    ("version", {"version": NUL}),
    ("host.hostname", {"host": {"hostname": NUL}}),
    ("host.architecture", {"host": {"architecture": NUL}}),
    ("host.ip[1]", {"host": {"ip": ["127.0.0.1", NUL]}}),
    ("host.os.name", {"host": {"os": {"name": NUL}}}),
    ("host.os.type", {"host": {"os": {"type": NUL}}}),
    ("host.os.version", {"host": {"os": {"version": NUL}}}),
    ("labels", {"labels": {"a": NUL}}),
    ("labels", {"labels": {NUL: "a"}}),
    ("groups", {"groups": [NUL]}),
]


@pytest.mark.parametrize(("field", "members"), ENROLLMENTS)
def test_an_enrollment_with_nul_is_refused_with_the_field(
    server: Server, management: httpx.Client, field: str, members: dict[str, Any]
) -> None:
    token = management.post("/enrollment-tokens", json={"expires_in": 60}).json()["token"]
    joining = server.client(server.agent_url, token)
    for client, path in ((management, "/agents"), (joining, "/enroll")):
        answer = client.post(path, json={"name": "nul", "key": KEY} | members)
        assert answer.status_code in {400, 422}, answer.text
        assert field in answer.json()["detail"]
    assert management.get("/agents?name=nul").json()["items"] == []


def test_a_change_with_nul_is_refused_with_the_field(management: httpx.Client, agent_id: UUID) -> None:
    assert management.post("/groups", json={"name": "texts"}).status_code == 201
    changes: list[tuple[str, str, str, Any]] = [
        ("PATCH", f"/agents/{agent_id}", "labels", {"labels": {"a": NUL}}),
        ("PATCH", f"/agents/{agent_id}", "allowed_addresses", {"allowed_addresses": [NUL]}),
        ("POST", f"/agents/{agent_id}/key", "key", {"key": NUL}),
        ("POST", "/enrollment-tokens", "description", {"expires_in": 1, "description": NUL}),
        ("POST", "/users", "name", {"name": NUL, "password": KEY, "role": "reader"}),
        ("POST", "/groups", "name", {"name": NUL}),
        ("POST", "/groups/texts/agents", "agents[0]", {"agents": [NUL]}),
        ("PUT", "/actions/nul", "schema", {"schema": {"const": NUL}}),
        ("PUT", "/actions/n%00ul", "path", {"schema": {}}),
        ("DELETE", "/groups/%00", "path", None),
        ("GET", "/agents/%00", "path", None),
        ("PUT", "/groups/g/files/%00", "path", {}),
    ]
    for method, path, field, body in changes:
        answer = management.request(method, path, json=body)
        assert answer.status_code in {400, 422}, (path, answer.text)
        assert field in answer.json()["detail"], path


def test_a_command_with_nul_is_refused_with_the_field(management: httpx.Client, agent_id: UUID, query: Query) -> None:
    def with_action(**members: Any) -> dict[str, Any]:
        body = command(agent_id)
        return body | {"action": body["action"] | members}

    commands: list[tuple[str, dict[str, Any]]] = [
        ("action.name", with_action(name=NUL)),
        ("action.version", with_action(version=NUL)),
        ("action.args", with_action(args={"deep": [{"a": NUL}]})),
        ("action.args", with_action(args={NUL: 1})),
        ("action.args", with_action(name="unknown", args=["/bin/x", NUL])),
        ("user", command(agent_id) | {"user": NUL}),
        ("target.id", command(NUL)),
        ("target.id", command(NUL, "group")),
        ("target.id", command([str(agent_id), NUL])),  # type: ignore[arg-type] # several
        ("target.filter.name", command("") | {"target": {"type": "all", "filter": {"name": NUL}}}),
        ("target.filter.group", command("") | {"target": {"type": "all", "filter": {"group": NUL}}}),
        ("target.filter.labels", command("") | {"target": {"type": "all", "filter": {"labels": {"a": NUL}}}}),
    ]
    for path in ("/commands", "/commands?dry_run=true", "/_plugins/_command_manager/commands"):
        for field, body in commands:
            answer = management.post(path, json=body)
            assert (answer.status_code, answer.json()["detail"].count("commands[0]")) == (422, 1), answer.text
            assert field in answer.json()["detail"]
    assert query("SELECT 1 FROM commands") == []


def test_an_escaped_backslash_before_u0000_is_not_nul() -> None:
    assert contains_nul(rb'{"a":"\u0000"}')
    assert contains_nul(rb'["\\\u0000"]')
    assert not contains_nul(rb'["\\u0000"]')
    assert not contains_nul(rb'["\\\\u0000","u0000"]')


@pytest.mark.parametrize(
    "query",
    [
        "/agents?name",
        "/agents?node",
        "/agents?label",
        "/events?module",
        "/events?agent_id",
        "/states?module",
        "/orders?user",
        "/orders?target",
        "/commands?source",
        "/groups?after",
        "/audit?actor",
    ],
)
def test_a_query_with_nul_is_refused_with_the_parameter(management: httpx.Client, query: str) -> None:
    answer = management.get(query + "=a%00b")
    assert (answer.status_code, answer.json()["detail"]) == (400, f"{query.partition('?')[2]}: must not contain NUL")
