"""Tests that `test_leftovers` runs in another process: they start processes and leave them running."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.databases import querying
from support.server import Server, start_server


def _announce(database_url: str, *pids: int) -> None:
    """Write the ids of this process, PostgreSQL and the others in one step."""
    statement = "SELECT CAST(split_part(pg_read_file('postmaster.pid'), chr(10), 1) AS int)"
    [(postmaster,)] = querying(database_url)(statement)
    path = Path(os.environ["TEST_ANNOUNCED"])
    path.with_suffix(".new").write_text(" ".join(str(pid) for pid in (os.getpid(), postmaster, *pids)))
    path.with_suffix(".new").rename(path)


def _start_agent(server: Server, folder: Path) -> int:
    program = [sys.executable, "-m", "comms_api", "agent", "--url", server.agent_url, "--name", "held"]
    program += ["--management-url", server.management_url, "--data-dir", str(folder / "agent")]
    program += ["--ca", str(server.folder / "certs" / "ca.pem"), "--password-file", str(server.folder / "password")]
    return subprocess.Popen(program).pid


def test_hold(server: Server, folder: Path, database_url: str) -> None:
    _announce(database_url, server.process.pid, _start_agent(server, folder))
    signal.pause()


def test_fail(folder: Path, new_database: Callable[[], str]) -> None:
    url = new_database()
    server = start_server(folder, url, workers=2)
    _announce(url, server.process.pid)
    pytest.fail("it ends nothing")
