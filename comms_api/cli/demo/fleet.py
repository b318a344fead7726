"""The processes of the demonstration: a server, and agents that collect this host's logs and inventory."""

import secrets
import shlex
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec

from comms_api.cli.demo.comparison import Counts
from comms_api.cli.server_process import STOP_SECONDS, ServerProcess, server_environment
from comms_api.client.spool.model import Statistics
from comms_api.client.transport.endpoint import Endpoint

GROUP = "demo"
ENROLLMENTS = ("user", "token", "key request")
"""Each agent is known in one of these ways: enrolled by a user, by a token, or found in an external database."""

LOG_BYTES_MAXIMUM = 2 * 2**20
_EXTERNAL_ID, _EXTERNAL_NAME = "007", "agent-3"
_PROGRAM = """#!/bin/sh
# Answers key requests. It knows one agent: `id {id}`.
if [ "$1 $2" = "id {id}" ]; then
    echo '{{"error":0,"data":{{"id":"{id}","name":"{name}","ip":"127.0.0.0/8","key":"{key}"}}}}'
else
    echo '{{"error":4,"message":"no such agent"}}'
fi
"""


class DemoServer:
    """A server with an embedded PostgreSQL, and an administrator's client for it."""

    def __init__(self, folder: Path) -> None:
        self.password_file = folder / "password"
        self.password_file.write_text(secrets.token_urlsafe(18))
        self.key_file = folder / "key"
        self.key_file.write_text(secrets.token_hex(16))
        self.token_file = folder / "enrollment-token"
        program = folder / "key-requests.sh"
        program.write_text(_PROGRAM.format(id=_EXTERNAL_ID, name=_EXTERNAL_NAME, key=self.key_file.read_text()))
        program.chmod(0o700)
        settings = {"admin_password_file": self.password_file, "key_request_program": shlex.quote(str(program))}
        self.process = ServerProcess.start(folder, server_environment(folder, **settings))
        self.client = self._logged_in_client()

    def _logged_in_client(self) -> httpx.Client:
        client = Endpoint(self.process.management_url, self.process.ca, is_direct=True).client(30)
        credentials = ("admin", self.password_file.read_text())
        answer = client.post("/security/user/authenticate", auth=credentials).raise_for_status()
        client.headers["Authorization"] = f"Bearer {answer.json()['data']['token']}"
        return client

    def post(self, path: str, body: object) -> Any:
        """Post to the management API and return its answer."""
        return self.client.post(path, json=body).raise_for_status().json()

    def get(self, path: str) -> Any:
        """Read from the management API."""
        return self.client.get(path).raise_for_status().json()

    def submit(self, action: str, target: Mapping[str, str], options: Mapping[str, object]) -> str:
        """Submit a command and return its id; `options` are further members of the command."""
        command = {
            "source": "Users/Services",
            "target": target,
            "action": {"name": action, "args": {"from": "demo"}, "version": "1"},
            "timeout": 60,
            **options,
        }
        request_id: str = self.post("/commands", command)["commands"][0]["request_id"]
        return request_id

    def stop(self) -> int:
        """End the server as an operator would, and return its exit code."""
        self.client.close()
        return self.process.stop()


class DemoAgent:
    """A `comms-api agent` process; `enrollment` is one of `ENROLLMENTS`."""

    def __init__(self, server: DemoServer, name: str, enrollment: str, log_files: tuple[str, ...]) -> None:
        self.name = name
        self.enrollment = enrollment
        home = server.process.folder
        self.folder = home / name
        arguments = ["--url", server.process.agent_url, "--no-proxy", "--ca", str(server.process.ca)]
        arguments += ["--data-dir", str(self.folder), "--name", name, "--from-start"]
        arguments += ["--batch-seconds", "0.5", "--scan-interval-seconds", "3600"]
        arguments += _enrollment_arguments(server, enrollment)
        arguments += [word for pattern in log_files for word in ("--log-file", pattern)]
        with (home / f"{name}.log").open("w") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-m", "comms_api", "agent", *arguments], stdout=subprocess.DEVNULL, stderr=log
            )

    def statistics(self) -> Statistics:
        """Return the agent's own counters."""
        try:
            return msgspec.json.decode((self.folder / "statistics.json").read_bytes(), type=Statistics)
        except FileNotFoundError:
            return Statistics()

    def is_settled(self) -> bool:
        """Return whether the server has answered everything that the agent has collected."""
        counters = self.statistics()
        states = counters.states_sent + counters.states_refused
        are_events_answered = counters.events_sent == counters.events_collected
        return counters.logins > 0 and are_events_answered and 0 < states == counters.states_collected

    def counts(self) -> Counts:
        """Return the agent's counts; its number of states is that which the server should have."""
        counters = self.statistics()
        spool = sqlite3.connect(self.folder / "spool.sqlite")
        try:
            (states,) = spool.execute("SELECT count(*) FROM known").fetchone()
        finally:
            spool.close()
        return Counts(counters.events_sent, states, counters.orders_executed, counters.results_reported)

    def stop(self) -> int:
        """End the agent, and return its exit code."""
        if self._process.poll() is None:
            self._process.terminate()
        return self._process.wait(STOP_SECONDS)


def _enrollment_arguments(server: DemoServer, enrollment: str) -> list[str]:
    if enrollment == "token":
        return ["--enrollment-token-file", str(server.token_file)]
    if enrollment == "key request":
        return ["--id", _EXTERNAL_ID, "--key-file", str(server.key_file)]
    user = ["--management-url", server.process.management_url, "--password-file", str(server.password_file)]
    return [*user, "--group", GROUP]


def _find_logs() -> list[str]:
    """Return this host's readable log files that are not large."""
    found = []
    for path in sorted(Path("/var/log").glob("**/*.log")):
        try:
            with path.open("rb"):
                if 0 < path.stat().st_size <= LOG_BYTES_MAXIMUM:
                    found.append(str(path))
        except OSError:
            continue
    return found


@contextmanager
def running_fleet(folder: Path) -> Iterator[tuple[DemoServer, list[DemoAgent]]]:
    """Run a server and an agent for each way to enroll, and stop all of them after the block."""
    server = DemoServer(folder)
    agents: list[DemoAgent] = []
    try:
        server.post("/groups", {"name": GROUP})
        token = {"groups": [GROUP], "uses": 1, "expires_in": 600, "description": "demo"}
        server.token_file.write_text(server.post("/enrollment-tokens", token)["token"])
        logs = (*_find_logs(), str(folder / "log"))
        for number, enrollment in enumerate(ENROLLMENTS, 1):
            agents.append(DemoAgent(server, f"agent-{number}", enrollment, logs))
        yield server, agents
    finally:
        for agent in agents:
            agent.stop()
        server.stop()
