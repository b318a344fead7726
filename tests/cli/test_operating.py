"""`comms-api commands` as an operator runs it, against a real server."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread
from typing import Any

import httpx
import pytest
from support.batches import command
from support.server import Server
from support.terminals import on_terminal
from support.waiting import PATIENCE


class Terminal:
    """Runs the command line as the administrator."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def program(self, *words: str) -> list[str]:
        options = ["--url", self._server.management_url, "--ca", str(self._server.folder / "certs" / "ca.pem")]
        options += ["--password-file", str(self._server.folder / "password")]
        return [sys.executable, "-m", "comms_api", "commands", words[0], *options, *words[1:]]

    def run(self, *words: str) -> tuple[int, str, str]:
        done = subprocess.run(self.program(*words), capture_output=True, text=True, timeout=PATIENCE, check=False)
        return done.returncode, done.stdout, done.stderr

    def good(self, *words: str) -> str:
        code, output, errors = self.run(*words)
        assert code == 0, errors
        return output


@pytest.fixture(scope="module")
def terminal(server: Server) -> Terminal:
    return Terminal(server)


class Answering:
    """Agents that answer every order with one code, each in a separate thread."""

    def __init__(self, server: Server, management: httpx.Client, group: str, codes: list[int]) -> None:
        management.post("/groups", json={"name": group})
        self._has_ended = Event()
        self._threads = []
        for number, code in enumerate(codes):
            client = server.log_in(server.enroll(management, f"{group}{number}", (group,)))
            self._threads.append(Thread(target=self._answer, args=(client, code)))

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_: object) -> None:
        self._has_ended.set()
        for thread in self._threads:
            thread.join()

    def _answer(self, client: httpx.Client, code: int) -> None:
        while not self._has_ended.is_set():
            orders = client.get("/commands?wait=0.5").json()["commands"]
            results = [
                {"order_id": order["order_id"], "result": {"code": code, "message": f"code {code}"}} for order in orders
            ]
            client.post("/commands/results", json={"results": results})


@pytest.fixture(scope="module")
def office(server: Server, management: httpx.Client) -> Iterator[None]:
    with Answering(server, management, "office", [0, 0, 1]):
        yield


def test_a_command_is_sent_watched_repeated_and_exported(office: None, terminal: Terminal, tmp_path: Path) -> None:  # noqa: ARG001
    code, output, errors = terminal.run(
        "send", "--group", "office", "--action", "ping", "--args", '{"a":[1]}', "--wait"
    )
    assert code == 3
    assert "3/3" in errors
    assert "code 1" in errors
    request_id = output.split()[0]
    shown = json.loads(terminal.good("show", request_id))
    assert shown["command"]["action"] == {"name": "ping", "args": {"a": [1]}, "version": ""}
    assert (shown["orders"]["success"], shown["orders"]["failure"]) == (2, 1)
    exported = tmp_path / "results.csv"
    terminal.good("results", request_id, "--output", str(exported))
    assert len(exported.read_text().splitlines()) == 4
    lines = terminal.good("results", request_id, "--format", "ndjson").splitlines()
    assert sorted(json.loads(line)["status"] for line in lines) == ["failure", "success", "success"]
    code, output, _ = terminal.run("retry", request_id, "--wait")
    assert (code, "1 order(s)" in output) == (3, True)
    assert request_id in terminal.good("list", "--action", "ping").replace("\n", "")


def test_a_command_is_rehearsed_held_back_and_cancelled(
    server: Server, management: httpx.Client, terminal: Terminal
) -> None:
    agent_id = str(server.enroll(management, "alone"))
    preview = terminal.good("send", "--agent", agent_id, "--action", "ping", "--dry-run").split()
    assert preview == ["1", "would", "get", "it", agent_id]
    sent = ("send", "--agent", "alone", "--action", "ping", "--idempotency-key", "once")
    request_id = terminal.good(*sent).split()[0]
    assert terminal.good(*sent).split()[0] == request_id
    assert terminal.good("pause", request_id) == "1 order(s) held\n"
    assert terminal.good("resume", request_id) == "the command is released\n"
    assert terminal.good("cancel", request_id) == "1 order(s) cancelled, 0 recipient(s) will be notified\n"
    code, output, _ = terminal.run("wait", request_id)
    assert (code, output) == (6, "1/1 order(s) ended: 1 cancelled\n")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("send", "--action", "ping"), 2, "name the recipients"),
        (("send", "--all", "--action", "ping", "--args", "{"), 2, "--args"),
        (("send", "--group", "nowhere", "--action", "ping"), 1, "there is no group 'nowhere'"),
        (("show", "01a1fd30-0000-7000-8000-000000000000"), 1, "There is no command"),
        (("show", "nonsense"), 2, "not a valid UUID"),
    ],
)
def test_a_fault_is_reported_in_one_line(terminal: Terminal, words: tuple[str, ...], code: int, message: str) -> None:
    result: tuple[int, Any, str] = terminal.run(*words)
    assert result[0] == code
    assert message in result[2]
    assert "Traceback" not in result[2]


def test_a_wait_ends_when_the_rollout_stops_and_says_why(
    server: Server, management: httpx.Client, terminal: Terminal
) -> None:
    with Answering(server, management, "bad", [1]):
        blocked = server.enroll(management, "shut-out", ("bad",))
        server.enroll(management, "never-seen", ("bad",))
        management.patch(f"/agents/{blocked}", json={"is_blocked": True})
        rollout = {"failure_ratio": 0.1, "failures_after": 1}
        sent = management.post("/commands", json=command("bad", "group", "ping", rollout=rollout))
        request_id = sent.json()["commands"][0]["request_id"]
        code, output, errors = terminal.run("wait", request_id)
    assert code == 7
    assert "1/3" in output
    assert "The rollout has stopped: 1 of 1 orders failed, more than the ratio 0.1 allows." in errors
    assert "shut-out (blocked, pending)" in errors
    assert "never-seen (offline: never connected, pending)" in errors
    assert f"commands resume {request_id}" in errors


def test_a_wait_names_the_agents_and_ctrl_c_says_how_to_resume_it(
    server: Server, management: httpx.Client, terminal: Terminal
) -> None:
    server.enroll(management, "asleep")
    program = terminal.program("send", "--agent", "asleep", "--action", "ping", "--wait")
    interruptible = ["env", "--default-signal=INT", *program]  # background jobs of a shell ignore SIGINT
    with subprocess.Popen(interruptible, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        request_id = process.stdout.readline().split()[0]
        named = process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE)
    assert named == "Waiting for asleep (offline: never connected, pending).\n"
    assert process.returncode == 130
    assert "The command continues." in errors
    assert f"comms-api commands wait {request_id}" in errors
    assert json.loads(terminal.good("show", request_id))["orders"]["pending"] == 1


def test_a_retry_without_failed_orders_names_the_option_for_cancelled_ones(
    server: Server, management: httpx.Client, terminal: Terminal
) -> None:
    server.enroll(management, "idle")
    request_id = terminal.good("send", "--agent", "idle", "--action", "ping").split()[0]
    terminal.good("cancel", request_id)
    code, _, errors = terminal.run("retry", request_id)
    assert code == 1
    assert "ended as failure. 1 were cancelled" in errors
    assert "--cancelled" in errors
    assert "1 order(s)" in terminal.good("retry", request_id, "--cancelled")


@pytest.mark.parametrize("columns", [60, 80])
def test_a_list_is_readable_on_a_narrow_terminal(
    server: Server, management: httpx.Client, terminal: Terminal, columns: int
) -> None:
    agent_id = server.enroll(management, f"narrow{columns}")
    request_id = terminal.good("send", "--agent", str(agent_id), "--action", "ping").split()[0]
    words = ("list", "--target", str(agent_id))
    assert on_terminal(terminal.program(*words), columns).splitlines()[:4] == [
        f"command {request_id}",
        f"created {management.get(f'/commands/{request_id}').json()['command']['created_at'][:19]}",
        "action  ping",
        f"target  agent {agent_id}",
    ]
    header, row = on_terminal(terminal.program(*words), columns=200).splitlines()
    columns_of_all = ["command", "created", "action", "target", "user", "phase"]
    assert header.split() == [*columns_of_all, "starts", "expires", "source"], "a wide terminal gets more columns"
    header, piped = terminal.good(*words).splitlines()
    assert header.split() == columns_of_all
    assert row.startswith(piped.rstrip()), "a pipe gets the table"


def test_the_progress_of_an_export_is_shown_at_a_terminal_only(
    server: Server, management: httpx.Client, terminal: Terminal, tmp_path: Path
) -> None:
    agent_id = server.enroll(management, "exported")
    request_id = terminal.good("send", "--agent", str(agent_id), "--action", "ping").split()[0]
    words = ("results", request_id, "--output", str(tmp_path / "results"))
    assert "bytes" in on_terminal(terminal.program(*words), 100, "xterm")
    assert on_terminal(terminal.program(*words), 100) == "", "a dumb terminal"
    assert terminal.run(*words) == (0, "", "")


def test_only_the_owner_can_read_the_device_token_of_the_command_line(
    terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    terminal.good("list")
    [file] = (tmp_path / "comms-api" / "devices").iterdir()
    token = file.read_text()
    assert (len(token), file.stat().st_mode & 0o777) == (64, 0o600)
    terminal.good("list")
    assert file.read_text() == token
    file.write_text("Injected: header\r\n")
    terminal.good("list")
    assert file.read_text() not in {token, "Injected: header\r\n"}


def test_the_command_line_works_without_a_place_for_its_device_token(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/nowhere")
    terminal.good("list")
