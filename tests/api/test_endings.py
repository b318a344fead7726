"""A node that is stopped, or cannot start, ends with all its processes; failed requests leave nothing in memory."""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import asyncpg
import httpx
import pytest
from sqlalchemy import make_url
from support.batches import stateless
from support.databases import plain_url, querying
from support.raw import connect, read_answer, request
from support.server import Server, environment, running_server, start_server
from support.waiting import PATIENCE, wait_until

from comms_api.app.hypercorn_server import SHUTDOWN_SECONDS
from comms_api.app.preparation import PREPARATION_LOCK

MIB = 2**20


def children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def test_the_memory_of_failed_requests_is_freed_soon(
    server: Server, management: httpx.Client, query: Callable[..., object]
) -> None:
    agent_id = server.enroll(management, "unlucky")
    client = server.log_in(agent_id)
    body = stateless(agent_id, *[{"filling": "x" * 2 * MIB}] * 4)
    assert client.post("/events/stateless", content=body).status_code == 204
    before = server.resident_bytes()
    query("ALTER TABLE event_batches RENAME TO away")
    try:
        for _ in range(30):
            assert client.post("/events/stateless", content=body).status_code == 500
    finally:
        query("ALTER TABLE away RENAME TO event_batches")
    assert server.resident_bytes() - before < 250 * MIB


def test_a_node_that_is_stopped_while_it_prepares_the_database_ends_the_preparing_process(
    folder: Path, new_database: Callable[[], str]
) -> None:
    url = new_database()
    start_server(folder / "preparing", url).stop()

    async def block() -> None:
        blocker = await asyncpg.connect(plain_url(make_url(url)))
        await blocker.execute(f"SELECT pg_advisory_lock({PREPARATION_LOCK})")
        await asyncio.to_thread(end_while_it_waits, folder / "preparing", url)
        await blocker.close()

    asyncio.run(block())


def end_while_it_waits(home: Path, url: str) -> None:
    waiting = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    process = subprocess.Popen([sys.executable, "-m", "comms_api", "serve"], cwd=home, env=environment(home, url))
    try:
        wait_until(lambda: len(querying(url)(waiting)) == 1)
        [child] = children(process.pid)
        process.terminate()
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()
    assert not Path(f"/proc/{child}").exists()


def test_clients_that_stay_after_their_last_answer_leave_nothing_in_the_log(server: Server) -> None:
    log = server.folder / "log"
    before = len(log.read_text())
    staying = [connect(server.tls, server.agent_port) for _ in range(3)]
    for client in staying:
        client.sendall(request("GET", "/commands", None))  # says "Connection: close"
        assert read_answer(client).status == 401
    time.sleep(SHUTDOWN_SECONDS + 0.5)
    assert "Traceback" not in log.read_text()[before:]
    for client in staying:
        client.close()


@pytest.mark.parametrize("delay", [0.0, 0.05])
def test_a_worker_that_has_just_started_is_ended_too(
    folder: Path, new_database: Callable[[], str], delay: float
) -> None:
    server = start_server(folder / "young", new_database(), workers=2)
    first = children(server.process.pid)
    subprocess.run(["/bin/kill", "-9", first[0]], check=True)
    wait_until(lambda: set(children(server.process.pid)) - set(first), pause_seconds=0.01)
    time.sleep(delay)
    try:
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE) == 0
    finally:
        for child in children(server.process.pid) if server.process.poll() is None else []:
            subprocess.run(["/bin/kill", "-9", child], check=False)
        server.stop()


def refusal(folder: Path, url: str, **settings: object) -> str:
    """Return the error of a server that refuses to start."""
    folder.mkdir(exist_ok=True)
    refused = subprocess.run(
        [sys.executable, "-m", "comms_api", "serve"],
        cwd=folder,
        env=environment(folder, url, **settings),
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr
    return refused.stderr


def test_a_certificate_and_a_key_that_do_not_belong_together_are_refused_with_the_names_of_the_settings(
    folder: Path, new_database: Callable[[], str]
) -> None:
    with running_server(folder / "one", new_database()) as one, running_server(folder / "two", new_database()) as two:
        files = {
            "tls_certificate": one.folder / "certs" / "server.pem",
            "tls_key": two.folder / "certs" / "server.key",
        }
    assert "tls_certificate, tls_key: cannot serve" in refusal(folder / "mixed", new_database(), **files)


def test_a_development_key_whose_certificate_was_deleted_is_refused_with_what_to_do(
    folder: Path, new_database: Callable[[], str]
) -> None:
    url = new_database()
    with running_server(folder / "kept", url):
        pass
    for name in ("server.pem", "development.pem"):
        (folder / "kept" / "certs" / name).unlink()
    fault = refusal(folder / "kept", url)
    assert "certs_dir: cannot serve with" in fault
    assert "makes new ones" in fault
