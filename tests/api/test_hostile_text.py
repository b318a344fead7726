"""Untrusted texts: invalid names are refused, and no text can forge a log line or control the terminal."""

import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import pytest
from support.batches import command
from support.raw import request, send_parts
from support.server import KEY, PASSWORD, Server, new_id, running_server

from comms_api.errors import ConfigurationError
from comms_api.key_requests.model import ExternalName
from comms_api.settings import load_settings

DOTS = (".", "..")
CONTROLS = ("a\nb", "a\x1b[31m", "a\x00", "a\x7f", "a\x9b31m", "a\u2028b", "a\u202eb")
HOSTILE = "[bold red]\x1b]0;owned\x07\u202e[/]"
ESCAPED = r"[bold red]\x1b]0;owned\x07\u202e[/]"


@pytest.fixture(scope="module")
def server(folder: Path, database_url: str) -> Iterator[Server]:
    """A node that logs every refusal."""
    with running_server(folder, database_url, log_level="DEBUG") as running:
        yield running


@pytest.mark.parametrize("name", [*DOTS, *CONTROLS])
def test_a_name_of_dots_or_with_controls_is_refused_everywhere(management: httpx.Client, name: str) -> None:
    bodies = (
        ("/agents", {"name": name, "key": KEY}),
        ("/groups", {"name": name}),
        ("/users", {"name": name, "password": PASSWORD, "role": "reader"}),
    )
    for path, body in bodies:
        answer = management.post(path, json=body)
        assert answer.status_code in {400, 422}, path
        assert "name: " in answer.json()["detail"]


@pytest.mark.parametrize("name", DOTS)
def test_an_action_or_a_file_of_dots_is_refused(server: Server, management: httpx.Client, name: str) -> None:
    management.post("/groups", json={"name": "dots"})
    token = management.headers["Authorization"].removeprefix("Bearer ")
    written = name.replace(".", "%2E")
    for path, body in ((f"/actions/{written}", b'{"schema": {}}'), (f"/groups/dots/files/{written}", b"a: 1")):
        answer = send_parts(server.tls, server.management_port, [request("PUT", path, token, body)])
        assert (answer.status, b"name: " in answer.body) == (422, True), path


@pytest.mark.parametrize("name", DOTS)
def test_a_node_or_an_agent_of_a_key_request_cannot_be_called_dots(name: str) -> None:
    with pytest.raises(ConfigurationError, match="node_name"):
        load_settings({"COMMS_API_NODE_NAME": name})
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(name, ExternalName)


def test_a_path_does_not_forge_a_line_of_the_log(server: Server) -> None:
    forged = "2026-11-26 00:00:00,000 INFO comms_api: all is well"
    path = "/x%0A" + forged.replace(" ", "%20") + "%1B%5B31m%C2%9B"
    for port in (server.agent_port, server.management_port):
        assert send_parts(server.tls, port, [request("GET", path, None)]).status == 404
    log = (server.folder / "log").read_text()
    assert log.count(f"\\n{forged}\\x1b[31m\\x9b") >= 2
    assert all(not line.startswith(forged) for line in log.splitlines())
    assert "\x1b" not in log


ENVIRONMENT = {"COLUMNS": "300", "LANG": "C.UTF-8"}


def program(server: Server, *words: str) -> list[str]:
    options = ["--url", server.management_url, "--ca", str(server.folder / "certs" / "ca.pem")]
    options += ["--password-file", str(server.folder / "password")]
    return [sys.executable, "-m", "comms_api", *words[:2], *options, *words[2:]]


def run(server: Server, *words: str) -> str:
    """Run a command of the command line; return its output on both streams."""
    done = subprocess.run(program(server, *words), capture_output=True, check=False, env=ENVIRONMENT)
    return (done.stdout + done.stderr).decode()


def run_on_terminal(server: Server, *words: str) -> str:
    """Run a command with a terminal as standard output; return its output."""
    terminal, end = pty.openpty()
    with open(terminal, "rb", buffering=0) as reader:  # noqa: PTH123 - it has no path
        subprocess.run(program(server, *words), stdout=end, check=True, env=ENVIRONMENT)
        os.set_blocking(terminal, False)
        printed = reader.read(65_536)
        os.close(end)
    return printed.decode()


def test_untrusted_texts_have_no_effect_on_a_terminal(server: Server, management: httpx.Client) -> None:
    agent_id = server.enroll(management, "[link=x]host[/link]")
    submitted = management.post("/commands", json=command(agent_id, action=HOSTILE)).json()["commands"][0]
    client = server.log_in(agent_id)
    [order] = client.get("/commands?wait=0").json()["commands"]
    report = {"order_id": order["order_id"], "result": {"code": 1, "message": HOSTILE}}
    client.post("/commands/results", json={"results": [report]})
    listed = run(server, "commands", "list")
    waited = run(server, "commands", "wait", submitted["request_id"])
    shown = run(server, "commands", "show", submitted["request_id"])
    unknown = run(server, "commands", "send", "--group", HOSTILE, "--action", "ping")
    agents = run(server, "cluster", "agents", "--node", "x")
    assert ESCAPED in listed
    assert f"{agent_id}: {ESCAPED}" in waited
    assert msgspec.json.decode(shown)["failures"][0]["message"] == HOSTILE
    exported = run(server, "commands", "results", submitted["request_id"])
    assert HOSTILE in exported
    displayed = run_on_terminal(server, "commands", "results", submitted["request_id"])
    assert ESCAPED in displayed
    for printed in (listed, waited, shown, unknown, agents, displayed):
        assert not {"\x1b", "\x07", "\u202e"} & set(printed)


def test_a_node_name_of_dots_is_refused(server: Server) -> None:
    assert "'..' is not a name" in run(server, "cluster", "drain", "..")


def test_a_name_may_have_any_letters(management: httpx.Client) -> None:
    body = {"id": str(new_id()), "name": "Ünïcode [b]host[/b] 日本", "key": KEY}
    assert management.post("/agents", json=body).status_code == 201
