"""The memory of a worker, and the part that it shares with others."""

import subprocess
import sys
from pathlib import Path

import psutil
from support.server import start_server
from support.waiting import PATIENCE

NOT_NEEDED = ("alembic", "httpx", "nats", "rich")
"""Modules that only preparations, other commands, other sinks, webhooks and key requests import."""


def test_workers_do_not_import_modules_that_they_do_not_need() -> None:
    program = "import sys, comms_api.cli.serve, comms_api.app.hypercorn_server; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert set(NOT_NEEDED) & set(done.stdout.split()) == set()


def test_workers_share_most_of_what_was_imported(folder: Path, database_url: str) -> None:
    server = start_server(folder, database_url, workers=2)
    try:
        for worker in psutil.Process(server.process.pid).children():
            memory = worker.memory_full_info()
            assert memory.uss < memory.rss / 2
    finally:
        assert server.stop() == 0
