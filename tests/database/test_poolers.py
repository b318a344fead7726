"""A real pgbouncer between a node and its database: refused if it shares sessions, otherwise used."""

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from support.balancers import install
from support.databases import querying
from support.ports import free_ports
from support.server import environment, running_server
from support.waiting import wait_until

from comms_api.database.address.url import driver_url
from comms_api.embedded_postgresql.home import server_account

CONFIGURATION = """
[databases]
* = host='{host}' port={port} user=comms_api
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen_port}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
ignore_startup_parameters = {ignored}
"""
IGNORED = "jit,enable_seqscan,client_connection_check_interval,statement_timeout,comms_api.disconnected_after"

Pooled = Callable[[str, str], AbstractContextManager[str]]


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def own_database(new_database: Callable[[], str]) -> str:
    """A database for one test, on a Unix socket."""
    url = new_database()
    if "host" not in driver_url(url).query:
        pytest.skip("the given server is on TCP")
    return url


@pytest.fixture
def pooled(scratch: Path, own_database: str) -> Pooled:
    """Return the URL of a separate database behind a pgbouncer with this mode."""

    @contextmanager
    def run(mode: str, ignored: str = IGNORED) -> Iterator[str]:
        program, account, [port] = install("pgbouncer"), server_account("nobody"), free_ports(1)
        server = driver_url(own_database)
        values = {"host": server.query["host"], "port": server.query["port"], "listen_port": port}
        file = scratch / f"pgbouncer-{port}.ini"
        file.write_text(CONFIGURATION.format(**values, mode=mode, ignored=ignored))
        with file.with_suffix(".log").open("wb") as log:
            process = subprocess.Popen([program, file], stdout=log, stderr=log, user=account.uid, group=account.gid)
        try:
            wait_until(lambda: _listens(port), says=file.with_suffix(".log").read_text)
            yield f"postgresql://comms_api@127.0.0.1:{port}/{server.database}"
        finally:
            process.kill()
            process.wait()

    return run


def start(folder: Path, url: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "comms_api", "serve"]
    variables = environment(folder, url)
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("mode", "ignored", "reason"),
    [
        ("transaction", IGNORED, "leads to a pooler that shares sessions (pgbouncer with pool_mode = transaction)"),
        ("statement", IGNORED, "transaction blocks not allowed in statement pooling mode"),
        ("session", "extra_float_digits", "leads to a pooler that refuses settings (unsupported startup parameter"),
    ],
)
def test_a_pooler_that_cannot_work_is_refused_at_the_start(
    folder: Path, pooled: Pooled, mode: str, ignored: str, reason: str
) -> None:
    with pooled(mode, ignored) as url:
        done = start(folder, url)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("comms-api: database_url: ")
    assert reason in line


def test_a_pooler_that_keeps_sessions_is_used(folder: Path, pooled: Pooled, own_database: str) -> None:
    name = driver_url(own_database).database
    querying(own_database)(f"ALTER DATABASE {name} SET comms_api.disconnected_after = '180s'")
    with pooled("session", IGNORED) as url, running_server(folder / "session", url) as server:
        agent_id = server.enroll(server.management(), "pooled")
        assert server.token(agent_id)
