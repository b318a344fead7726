"""A `comms-api serve` process, and clients for it."""

import base64
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGTERM, Signals
from typing import Any
from uuid import UUID

import httpx
import psutil

from comms_api.cli.server_process import ServerProcess, server_environment
from comms_api.database.uuid7 import uuid7_at
from support.waiting import PATIENCE

PASSWORD = "correct horse battery"
KEY = "0123456789abcdefghijklmnopqrstuv"


@dataclass
class Server(ServerProcess):
    """A running node, and clients that it closes when it stops."""

    users: list[httpx.Client] = field(default_factory=list)

    def client(self, url: str, token: str | None = None) -> httpx.Client:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        client = httpx.Client(base_url=url, verify=self.tls, headers=headers, timeout=PATIENCE)
        self.users.append(client)
        return client

    def user(self, management: httpx.Client, name: str, role: str) -> httpx.Client:
        """Make a user and return a client that is logged in as it."""
        answer = management.post("/users", json={"name": name, "password": PASSWORD, "role": role})
        assert answer.status_code == 201, answer.text
        return self.management(name)

    def management(self, name: str = "admin") -> httpx.Client:
        client = self.client(self.management_url)
        answer = client.post("/security/user/authenticate", auth=(name, PASSWORD))
        assert answer.status_code == 200, answer.text
        client.headers["Authorization"] = f"Bearer {answer.json()['data']['token']}"
        return client

    def enroll(self, management: httpx.Client, name: str, groups: tuple[str, ...] = ()) -> UUID:
        agent_id = new_id()
        body = {"id": str(agent_id), "name": name, "key": KEY, "groups": groups}
        answer = management.post("/agents", json=body)
        assert answer.status_code == 201, answer.text
        return agent_id

    def log_in(self, agent_id: UUID) -> httpx.Client:
        return self.client(self.agent_url, self.token(agent_id))

    def token(self, agent_id: UUID) -> str:
        with httpx.Client(base_url=self.agent_url, verify=self.tls, timeout=PATIENCE) as client:
            answer = client.post("/login", json={"uuid": str(agent_id), "key": KEY})
        assert answer.status_code == 200, answer.text
        token: str = answer.json()["token"]
        return token

    def resident_bytes(self) -> int:
        text = Path(f"/proc/{self.process.pid}/statm").read_text()
        return int(text.split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def cpu_seconds(self) -> float:
        """Return the CPU time of the node, without its child processes."""
        times = psutil.Process(self.process.pid).cpu_times()
        return times.user + times.system

    def reset_peak(self) -> None:
        """Reset `peak_bytes` (proc(5), clear_refs)."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def peak_bytes(self) -> int:
        """Return the most memory that was resident at once."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])

    def stop(self, with_signal: Signals = SIGTERM, patience_seconds: float = PATIENCE) -> int:
        for client in self.users:
            client.close()
        return super().stop(with_signal, patience_seconds)


def start_server(folder: Path, database_url: str | None, *, prefix: Sequence[str] = (), **settings: Any) -> Server:
    """Start a node in `folder` and return it when it listens; `prefix` is a program that runs it."""
    variables = environment(folder, database_url, **settings)
    return Server.start(folder, variables, prefix=prefix, patience_seconds=PATIENCE)


def environment(folder: Path, database_url: str | None, **settings: Any) -> dict[str, str]:
    """Return the environment of a node in `folder`, on free ports; a setting that is None keeps its default."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "password").write_text(PASSWORD)
    defaults = {
        "node_name": f"node-{uuid.uuid4().hex[:8]}",
        "admin_password_file": folder / "password",
        "database_timeout_seconds": PATIENCE,
        "database_url": database_url,
    }
    return server_environment(folder, **defaults | settings)


@contextmanager
def running_server(folder: Path, database_url: str | None, **settings: Any) -> Iterator[Server]:
    """Run a node for the block."""
    server = start_server(folder, database_url, **settings)
    try:
        yield server
    finally:
        server.stop()


def new_id() -> UUID:
    return uuid7_at(1_780_000_000)


def basic(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()
