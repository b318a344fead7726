"""Bytes that are not text, anywhere in a request or the environment, are refused with a reason, never a 500."""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import get_args

import httpx
import pytest
from msgspec.structs import FieldInfo, fields
from support.batches import command
from support.raw import connect, read_answer, request
from support.server import Server, basic, environment, new_id, running_server
from support.waiting import PATIENCE

from comms_api.errors import ConfigurationError
from comms_api.settings import Settings, load_settings

PARTS = ("%FF", "%ED%A0%80", "%C0%AF", "%F4%90%80%80", "a%00b", "\xff")
"""An invalid byte, half a surrogate pair, an overlong form, a number beyond the last character, NUL, and a byte that is
not percent-encoded."""

HEADERS = (
    "Authorization", "Accept", "Content-Type", "Content-Encoding", "Cookie", "Forwarded", "Host", "Idempotency-Key",
    "If-Match", "If-None-Match", "If-Range", "Origin", "Range", "User-Agent", "X-Forwarded-For", "Batch-Sequence",
    "Accept-Encoding", "Expect", "Connection",
)  # fmt: skip


@pytest.fixture(scope="module")
def server(folder: Path, database_url: str) -> Iterator[Server]:
    with running_server(folder, database_url, trusted_proxies="127.0.0.0/8") as running:
        yield running


@pytest.fixture(scope="module")
def agent(server: Server, management: httpx.Client) -> httpx.Client:
    return server.log_in(server.enroll(management, "text"))


def paths_of(client: httpx.Client) -> Iterator[tuple[str, str]]:
    """Yield the method and the path of every route of an API."""
    for path, methods in client.get("/schema/openapi.json").json()["paths"].items():
        yield from ((method.upper(), path) for method in methods)


def status(server: Server, client: httpx.Client, method: str, path: str, *headers: str) -> int:
    """Send a request in latin-1 without changes, and return the status of its answer."""
    token = client.headers["Authorization"].removeprefix("Bearer ")
    text = request(method, path, None, b"", f"Authorization: Bearer {token}", *headers).decode()
    with connect(server.tls, int(client.base_url.port or 0)) as connection:
        connection.sendall(text.encode("latin-1"))
        return read_answer(connection).status


@pytest.mark.parametrize("part", PARTS)
def test_a_path_with_bytes_that_are_not_text_is_no_500(
    server: Server, management: httpx.Client, agent: httpx.Client, part: str
) -> None:
    for client in (management, agent):
        for method, path in paths_of(client):
            for hostile in {re.sub(r"\{[^}]+\}", part, path), f"{path}/{part}", f"/{part}"} - {path}:
                assert status(server, client, method, hostile) < 500, (method, hostile)
    assert management.get("/agents").status_code == agent.get("/commands?wait=0").status_code == 200


@pytest.mark.parametrize("part", PARTS)
def test_a_query_with_bytes_that_are_not_text_is_no_500(
    server: Server, management: httpx.Client, agent: httpx.Client, part: str
) -> None:
    for client in (management, agent):
        described = client.get("/schema/openapi.json").json()["paths"]
        for path, methods in described.items():
            for parameter in methods.get("get", {}).get("parameters", ()):
                plain = path.replace("{request_id}", str(new_id())).replace("{order_id}", str(new_id()))
                hostile = f"{re.sub(r'{[^}]+}', 'x', plain)}?{parameter['name']}={part}&{part}={part}&wait=0"
                assert status(server, client, "GET", hostile) < 500, hostile


@pytest.mark.parametrize("value", ["\xff", "\xed\xa0\x80", "bytes=\xff", "Bearer \xff", "Basic /+==", "a=\xff"])
def test_a_header_with_bytes_that_are_not_text_is_no_500(
    server: Server, management: httpx.Client, agent: httpx.Client, value: str
) -> None:
    for client, path in ((management, "/agents"), (agent, "/files?file_name=merged.yml")):
        for name in HEADERS:
            assert status(server, client, "GET", path, f"{name}: {value}") < 500, name


def test_credentials_that_are_not_text_are_401(server: Server) -> None:
    with httpx.Client(base_url=server.management_url, verify=server.tls, timeout=PATIENCE) as client:
        for credentials in (
            "Basic /////w==",
            basic("\ufffd", "\udc80".encode(errors="replace").decode()),
            "Basic \xff",
        ):
            answer = client.post(
                "/security/user/authenticate", headers={"Authorization": credentials.encode("latin-1")}
            )
            assert answer.status_code == 401


LONE = '"\\ud800"'


@pytest.mark.parametrize("args", [f'{{"groups":[{LONE}]}}', f"{{{LONE}:1}}", f"[{LONE}]", f'{{"a":{LONE}}}'])
@pytest.mark.parametrize("action", ["set-group", "rotate-key", "anything", "strict"])
def test_args_with_half_a_surrogate_pair_are_no_500(
    management: httpx.Client, agent: httpx.Client, action: str, args: str
) -> None:
    management.put("/actions/strict", json={"schema": {"additionalProperties": {"type": "string", "pattern": "a"}}})
    [agent_id] = [item["id"] for item in management.get("/agents").json()["items"]]
    body = httpx.Request("POST", "https://x", json=command(agent_id, action=action)).content
    answer = management.post("/commands", content=body.replace(b'"args":{}', f'"args":{args}'.encode()))
    assert answer.status_code in {201, 400, 422}, answer.text
    assert agent.get("/commands?wait=0").status_code == 200


TLS = {"COMMS_API_TLS_KEY": "/a", "COMMS_API_TLS_CERTIFICATE": "/a"}


@pytest.mark.parametrize("field", fields(Settings), ids=lambda field: field.name)
def test_a_setting_that_is_not_text_is_refused_by_name_unless_it_is_a_path(field: FieldInfo) -> None:
    is_path = Path in {field.type, *get_args(field.type)}
    with nullcontext() if is_path else pytest.raises(ConfigurationError, match=f"^{field.name}: contains bytes"):
        load_settings(TLS | {f"COMMS_API_{field.name.upper()}": "/\udcff"})


@pytest.mark.parametrize("setting", ["agent_bind", "database_url", "trusted_proxies", "workers", "certs_dir"])
def test_a_node_with_a_setting_that_is_not_text_logs_one_line_or_serves(
    folder: Path, database_url: str, setting: str
) -> None:
    env = {key.encode(): value.encode() for key, value in environment(folder, database_url).items()}
    env[f"COMMS_API_{setting.upper()}".encode()] = b"\xff"
    program = [sys.executable, "-m", "comms_api", "serve"]
    node = subprocess.Popen(program, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert node.stdout is not None
    is_serving = any(line.startswith(b"management API") for line in node.stdout)
    node.terminate()
    errors = node.communicate()[1].decode()
    if not is_serving:
        assert errors.count("\n") == 1, errors
        assert f"{setting}: " in errors
