"""The commands about agents, groups, tokens, orders and users, as an operator runs them against a real server."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from support.batches import command
from support.server import KEY, Server
from support.terminals import on_terminal
from support.waiting import PATIENCE

HOSTILE = "evil\x1b[2J\x1b]0;owned\x07\u202etext"


class CommandLine:
    """Runs `comms-api` as the administrator."""

    def __init__(self, server: Server) -> None:
        password = str(server.folder / "password")
        self._options = ["--url", server.management_url, "--ca", str(server.ca), "--password-file", password]

    def program(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "comms_api", *words, *self._options]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.program(*words),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def good(self, *words: str) -> str:
        done = self.run(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def read(self, *words: str) -> object:
        return json.loads(self.good(*words, "--json"))


@pytest.fixture(scope="module")
def shell(server: Server) -> CommandLine:
    return CommandLine(server)


def test_a_new_key_is_shown_once_or_written_to_a_private_file(
    server: Server, shell: CommandLine, tmp_path: Path
) -> None:
    file = tmp_path / "key"
    enrolled = json.loads(shell.good("agents", "enroll", "keyed", "--key-output", str(file), "--json"))
    assert enrolled.keys() == {"id", "name", "key_file"}
    assert file.stat().st_mode & 0o777 == 0o600
    login = {"uuid": enrolled["id"], "key": file.read_text()}
    assert server.client(server.agent_url).post("/login", json=login).status_code == 200
    replaced = json.loads(shell.good("agents", "rotate-key", "keyed", "--compromised", "--json"))
    assert server.client(server.agent_url).post("/login", json=login).status_code == 401
    login["key"] = replaced["key"]
    assert server.client(server.agent_url).post("/login", json=login).status_code == 200


def test_labels_are_set_and_removed_one_by_one(server: Server, management: httpx.Client, shell: CommandLine) -> None:
    agent_id = server.enroll(management, "labelled")
    shell.good("agents", "label", "labelled", "floor:2", "room:a:b")
    assert shell.good("agents", "label", "labelled", "floor:3", "--remove", "room") == "floor  3\n"
    assert management.get(f"/agents/{agent_id}").json()["labels"] == {"floor": "3"}


def test_an_agent_is_blocked_unblocked_and_deleted(
    server: Server, management: httpx.Client, shell: CommandLine
) -> None:
    agent_id = server.enroll(management, "short-lived")
    assert shell.good("agents", "block", "short-lived") == "short-lived is blocked, and its tokens are revoked\n"
    assert " blocked " in shell.good("agents", "list", "--name", "short-lived")
    assert shell.good("agents", "unblock", "short-lived") == "short-lived may log in again\n"
    assert shell.run("agents", "delete", "short-lived").returncode == 1, "nobody has confirmed it"
    assert shell.good("agents", "delete", "short-lived", "--yes") == f"short-lived ({agent_id}) is deleted\n"
    refused = shell.run("agents", "show", "short-lived")
    assert (refused.returncode, refused.stderr) == (1, "comms-api: There is no agent 'short-lived'.\n")


def test_members_join_and_leave_a_group(server: Server, management: httpx.Client, shell: CommandLine) -> None:
    for name in ("member-1", "member-2"):
        server.enroll(management, name)
    shell.good("groups", "create", "club", "--precedence", "7")
    assert shell.good("groups", "add", "club", "member-1", "member-2") == "2 agent(s) added to club\n"
    assert shell.good("groups", "remove", "club", "member-1") == "1 agent(s) removed from club\n"
    assert shell.good("agents", "list", "--group", "club", "--jq", ".[].name") == "member-2\n"
    [club] = [group for group in json.loads(shell.good("groups", "list", "--json")) if group["name"] == "club"]
    assert (club["precedence"], club["agents"]) == (7, 1)
    shell.good("groups", "delete", "club", "--yes")


def test_a_token_enrolls_until_it_is_revoked(server: Server, shell: CommandLine, tmp_path: Path) -> None:
    file = tmp_path / "token"
    made = json.loads(shell.good("tokens", "create", "--uses", "5", "--token-output", str(file), "--json"))
    agents = server.client(server.agent_url, file.read_text())
    assert agents.post("/enroll", json={"name": "by-token", "key": KEY}).status_code == 201
    assert " 4 " in shell.good("tokens", "list")
    shell.good("tokens", "revoke", made["id"])
    assert agents.post("/enroll", json={"name": "too-late", "key": KEY}).status_code == 401


def test_lists_begin_with_the_newest_and_follow_pages(
    server: Server, management: httpx.Client, shell: CommandLine
) -> None:
    agent_id = str(server.enroll(management, "busy"))
    body = [command(agent_id, action=f"task-{number}") for number in range(250)]
    management.post("/commands", json=body).raise_for_status()
    shown = shell.run("orders", "list", "--agent", "busy", "--limit", "2", "--jq", ".[].action.name")
    assert shown.stdout == "task-249\ntask-248\n"
    assert shown.stderr == "These are the first 2; --all shows every item.\n"
    every = shell.good("orders", "list", "--agent", "busy", "--all", "--order", "oldest", "--ndjson").splitlines()
    assert [json.loads(line)["action"]["name"] for line in every] == [f"task-{number}" for number in range(250)]


def test_texts_of_agents_cannot_control_the_terminal(management: httpx.Client, shell: CommandLine) -> None:
    body = {"name": "evil", "key": KEY, "version": HOSTILE, "labels": {"\x1b[31m": "\x9b2J"}}
    management.post("/agents", json=body).raise_for_status()
    for words in (("agents", "list", "--name", "evil"), ("agents", "show", "evil"), ("agents", "label", "evil")):
        for form in ((), ("--json",), ("--ndjson",), ("--jq", ".")):
            shown = on_terminal(shell.program(*words, *form), 300).replace("\r\n", "\n")
            assert "2J" in shown
            assert not [text for text in shown if text != "\n" and not text.isprintable()]


def test_no_colour_is_printed_if_the_environment_forbids_it(
    shell: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[3" not in on_terminal(shell.program("agents", "list"), 200)


def test_a_jq_program_that_is_wrong_is_wrong_usage(shell: CommandLine) -> None:
    done = shell.run("agents", "list", "--jq", ".[")
    assert done.returncode == 2
    assert "--jq" in done.stderr


def test_a_user_is_created_and_changed(server: Server, shell: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "new").write_text("a long enough password")
    shell.good("users", "create", "newcomer", "--role", "reader", "--new-password-file", str(tmp_path / "new"))
    credentials = ("newcomer", "a long enough password")
    answer = server.client(server.management_url).post("/security/user/authenticate", auth=credentials)
    assert answer.status_code == 200
    shell.good("users", "change", "newcomer", "--role", "operator")
    assert "newcomer operator" in shell.good("users", "list")
    assert "users" in shell.good("audit", "list", "--subject", "users", "--key", "newcomer")
    shell.good("users", "delete", "newcomer", "--yes")
    without_terminal = shell.run("users", "create", "nobody", "--role", "reader")
    assert without_terminal.stderr.startswith("comms-api: New password: name a file with it")


def test_a_watched_agent_is_printed_again_when_it_changes(
    server: Server, management: httpx.Client, shell: CommandLine
) -> None:
    agent_id = server.enroll(management, "watched")
    program = shell.program("agents", "show", "watched", "--watch", "--jq", ".labels")
    interruptible = ["env", "--default-signal=INT", *program]  # background jobs of a shell ignore SIGINT
    with subprocess.Popen(interruptible, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "{}\n"
        management.patch(f"/agents/{agent_id}", json={"labels": {"floor": "2"}}).raise_for_status()
        assert process.stdout.readline() == '{"floor":"2"}\n'
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
