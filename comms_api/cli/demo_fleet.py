"""The processes of the demonstration, and the numbers that each side of the wire tells."""

import os
import re
import secrets
import shlex
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import msgspec

from comms_api.client.spool.model import Statistics
from comms_api.client.transport.endpoint import Endpoint
from comms_api.errors import CommsError

GROUP = "demo"
START_SECONDS = 60.0
LOG_BYTES_MAXIMUM = 2 * 2**20
_URL = re.compile(r"^(agent|management) API: +(https://\S+)$")


class Counted(msgspec.Struct, frozen=True):
    """What one side says has happened to one agent."""

    events: int
    states: int
    orders: int
    results: int


WAYS = ("user", "token", "key request")
"""How an agent comes to be known: a user enrolls it, it has an enrollment token, or another database knows it."""

_EXTERNAL_ID, _EXTERNAL_NAME = "007", "agent-3"
_PROGRAM = """#!/bin/sh
# Answers key requests: `id 007` is the one agent that it knows.
if [ "$1 $2" = "id {id}" ]; then
    echo '{{"error":0,"data":{{"id":"{id}","name":"{name}","ip":"127.0.0.0/8","key":"{key}"}}}}'
else
    echo '{{"error":4,"message":"no such agent"}}'
fi
"""


class Server:
    """A `comms-api serve` process and an administrator's client for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.password_file = folder / "password"
        self.password_file.write_text(secrets.token_urlsafe(18))
        self.key_file = folder / "key"
        self.key_file.write_text(secrets.token_hex(16))
        program = folder / "key-requests.sh"
        program.write_text(_PROGRAM.format(id=_EXTERNAL_ID, name=_EXTERNAL_NAME, key=self.key_file.read_text()))
        program.chmod(0o700)
        self.token_file = folder / "enrollment-token"
        self.log = folder / "server.log"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("COMMS_API_")} | {
            "COMMS_API_DATA_DIR": str(folder / "data"),
            "COMMS_API_CERTS_DIR": str(folder / "certs"),
            "COMMS_API_AGENT_BIND": "127.0.0.1:0",
            "COMMS_API_MANAGEMENT_BIND": "127.0.0.1:0",
            "COMMS_API_ADMIN_PASSWORD_FILE": str(self.password_file),
            "COMMS_API_KEY_REQUEST_PROGRAM": shlex.quote(str(program)),
        }
        self.process = _start(["serve"], self.log, environment, stdout=subprocess.PIPE)
        urls = dict(self._urls())
        if len(urls) < len(("agent", "management")):
            raise CommsError(f"the server did not start:\n{self.log.read_text()}")
        self.agent_url, self.management_url = urls["agent"], urls["management"]
        self.ca = folder / "certs" / "ca.pem"
        self.client = self._client()

    def _urls(self) -> Iterator[tuple[str, str]]:
        for line in self.process.stdout or ():
            if found := _URL.match(line.strip()):
                yield found[1], found[2]
                if found[1] == "management":
                    return

    def _client(self) -> httpx.Client:
        client = Endpoint(self.management_url, self.ca, is_direct=True).client(30)
        password = self.password_file.read_text()
        answer = client.post("/security/user/authenticate", auth=("admin", password)).raise_for_status()
        client.headers["Authorization"] = f"Bearer {answer.json()['data']['token']}"
        return client

    def post(self, path: str, body: object) -> Any:
        """Post to the management API and return its answer."""
        return self.client.post(path, json=body).raise_for_status().json()

    def get(self, path: str) -> Any:
        """Ask the management API."""
        return self.client.get(path).raise_for_status().json()

    def submit(self, action: str, target: str, kind: str, more: Mapping[str, object]) -> str:
        """Submit a command, with more members, and return its id."""
        command = {
            "source": "Users/Services",
            "target": {"id": target, "type": kind},
            "action": {"name": action, "args": {"from": "demo"}, "version": "1"},
            "timeout": 60,
            **more,
        }
        request_id: str = self.post("/commands", command)["commands"][0]["request_id"]
        return request_id

    def stop(self) -> int:
        """End it as an operator would, and return its exit code."""
        self.client.close()
        return _stop(self.process)


class FleetAgent:
    """A `comms-api agent` process on this host's logs and inventory."""

    def __init__(self, server: Server, name: str, way: str, log_files: tuple[str, ...]) -> None:
        self.name = name
        self.way = way
        self.folder = server.folder / name
        arguments = ["agent", "--url", server.agent_url, "--no-proxy", "--ca", str(server.ca)]
        arguments += ["--data-dir", str(self.folder), "--name", name, "--from-start"]
        arguments += ["--batch-seconds", "0.5", "--scan-interval-seconds", "3600"]
        arguments += _enrollment(server, way)
        arguments += [word for pattern in log_files for word in ("--log-file", pattern)]
        self.log = server.folder / f"{name}.log"
        self.process = _start(arguments, self.log, dict(os.environ))

    def statistics(self) -> Statistics:
        """Return its own counters."""
        try:
            return msgspec.json.decode((self.folder / "statistics.json").read_bytes(), type=Statistics)
        except FileNotFoundError:
            return Statistics()

    def is_settled(self) -> bool:
        """Return whether everything it has collected has been answered."""
        told = self.statistics()
        sent = told.states_sent + told.states_refused
        return told.logins > 0 and told.events_sent == told.events_collected and 0 < sent == told.states_collected

    def counted(self) -> Counted:
        """Return what it says it did; the states are those it believes the server to have."""
        told = self.statistics()
        spool = sqlite3.connect(self.folder / "spool.sqlite")
        try:
            (states,) = spool.execute("SELECT count(*) FROM known").fetchone()
        finally:
            spool.close()
        return Counted(told.events_sent, states, told.orders_executed, told.results_reported)

    def stop(self) -> int:
        """End it, and return its exit code."""
        return _stop(self.process)


def _enrollment(server: Server, way: str) -> list[str]:
    if way == "token":
        return ["--enrollment-token-file", str(server.token_file)]
    if way == "key request":
        return ["--id", _EXTERNAL_ID, "--key-file", str(server.key_file)]
    user = ["--management-url", server.management_url, "--password-file", str(server.password_file)]
    return [*user, "--group", GROUP]


async def count_in_database(url: str) -> Mapping[str, Counted]:
    """Return what the database holds of each agent, by name."""
    connection = await asyncpg.connect(url.replace("postgresql+asyncpg://", "postgresql://"))
    try:
        rows = await connection.fetch("""
            SELECT name, (SELECT count(*) FROM events WHERE agent_id = agents.id) AS events,
                (SELECT count(*) FROM states WHERE agent_id = agents.id) AS states,
                (SELECT count(*) FROM orders WHERE agent_id = agents.id AND attempt > 0)
                    + (SELECT count(*) FROM finished_orders WHERE agent_id = agents.id AND attempt > 0) AS orders,
                (SELECT count(*) FROM finished_orders WHERE agent_id = agents.id AND status = 'success') AS results
            FROM agents""")
    finally:
        await connection.close()
    return {row["name"]: Counted(row["events"], row["states"], row["orders"], row["results"]) for row in rows}


def find_logs(server: Server) -> tuple[str, ...]:
    """Return log files of this host that can be read and are not large, and the server's own."""
    found = []
    for path in sorted(Path("/var/log").glob("**/*.log")):
        try:
            with path.open("rb"):
                if 0 < path.stat().st_size <= LOG_BYTES_MAXIMUM:
                    found.append(str(path))
        except OSError:
            continue
    return (*found, str(server.log))


@contextmanager
def fleet(folder: Path) -> Iterator[tuple[Server, list[FleetAgent]]]:
    """Run a server and its agents for the block, and end whatever still runs after it."""
    server = Server(folder)
    running: list[FleetAgent] = []
    try:
        server.post("/groups", {"name": GROUP})
        token = {"groups": [GROUP], "uses": 1, "expires_in": 600, "description": "demo"}
        server.token_file.write_text(server.post("/enrollment-tokens", token)["token"])
        logs = find_logs(server)
        running += [FleetAgent(server, f"agent-{number}", way, logs) for number, way in enumerate(WAYS, 1)]
        yield server, running
    finally:
        for agent in running:
            agent.stop()
        server.stop()


def wait_for(condition: Any, what: str, seconds: float = START_SECONDS) -> None:
    """Return once `condition` holds; raises `CommsError` when it takes too long."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise CommsError(f"not seen within {seconds:g} seconds: {what}")
        time.sleep(0.1)


def _start(
    arguments: list[str], log: Path, environment: Mapping[str, str], stdout: int = subprocess.DEVNULL
) -> subprocess.Popen[str]:
    with log.open("a") as output:
        return subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-m", "comms_api", *arguments], stdout=stdout, stderr=output, env=environment, text=True
        )


def _stop(process: subprocess.Popen[str]) -> int:
    if process.poll() is None:
        process.terminate()
    code = process.wait(timeout=START_SECONDS)
    if process.stdout is not None:
        process.stdout.close()
    return code
