"""`comms-api events` as an operator runs it, against a real server."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

import httpx
import pytest
from support.batches import stateless
from support.server import Server
from support.waiting import PATIENCE

LINE = "Nov 27 04:29:17 web-1 sshd[1029]: Failed password for root"


@pytest.fixture(scope="module")
def agent_id(server: Server, management: httpx.Client) -> UUID:
    return server.enroll(management, "read by operators")


@pytest.fixture(scope="module")
def send(server: Server, agent_id: UUID) -> Callable[..., None]:
    agent = server.log_in(agent_id)

    def send(*events: object) -> None:
        agent.post("/events/stateless", content=stateless(agent_id, *events)).raise_for_status()

    return send


@contextmanager
def running(server: Server, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Run `comms-api events` for the block; Ctrl-C reaches it although a test runs it in the background."""
    program = ["env", "--default-signal=INT", sys.executable, "-m", "comms_api", "events", *words]
    program += ["--url", server.management_url, "--ca", str(server.ca)]
    program += ["--password-file", str(server.folder / "password")]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def next_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def test_a_follower_shows_log_lines_until_ctrl_c(server: Server, send: Callable[..., None], agent_id: UUID) -> None:
    send({"event": {"original": LINE}})
    with running(server, "tail", "--follow", "--agent", str(agent_id)) as tail:
        assert next_line(tail).endswith(f"{agent_id} logcollector/file {LINE}\n")
        send({"name": "new"})
        assert next_line(tail).endswith(' logcollector/file {"name":"new"}\n')
        tail.send_signal(signal.SIGINT)
        assert tail.communicate(timeout=PATIENCE) == ("", "")
        assert tail.returncode == 130


def test_a_follower_ends_quietly_when_its_reader_does(server: Server, send: Callable[..., None]) -> None:
    send({"name": "first"})
    with running(server, "tail", "--follow", "--last", "1", "--json") as tail:
        assert '"name":"first"' in next_line(tail)
        assert tail.stdout is not None
        assert tail.stderr is not None
        tail.stdout.close()
        send({"name": "unread"})
        assert tail.wait(PATIENCE) == 1
        assert tail.stderr.read() == ""


def test_an_export_continues_after_an_event(
    server: Server, management: httpx.Client, send: Callable[..., None]
) -> None:
    send(*({"name": f"exported {number}"} for number in range(3)))
    items = management.get("/events", params={"contains": "exported"}).json()["items"]
    with running(server, "export", "--contains", "exported", "--after", items[0]["id"]) as export:
        lines, errors = export.communicate(timeout=PATIENCE)
    assert [line.rpartition('"name":')[2] for line in lines.splitlines()] == [' "exported 1"}}', ' "exported 2"}}']
    assert (export.returncode, errors) == (0, "")
