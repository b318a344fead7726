"""The system under measurement: a durable PostgreSQL of its own, one server process, and as many agents as wanted."""

import os
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

import asyncpg
import httpx
from sqlalchemy import make_url

from comms_api.database.connect import open_engine
from comms_api.database.embedded import Cluster, embedded_postgres
from comms_api.database.uuid7 import uuid7_at
from comms_api.login.service import load_keyring
from comms_api.settings import Settings
from comms_api.tokens.issuer import AGENTS, Tokens
from comms_api.tokens.keyring import Secret

KEY = "k" * 32
PASSWORD = "measure twice, cut once"  # noqa: S105 - of a database that lives for minutes
TICKS = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class System:
    """A running node and direct access to its database."""

    def __init__(self, folder: Path, cluster: Cluster, process: subprocess.Popen[str], ports: tuple[int, int]) -> None:
        """Take what has been started."""
        self.folder = folder
        self.cluster = cluster
        self.process = process
        self.agent_port, self.management_port = ports
        self.tls = ssl.create_default_context(cafile=folder / "certs" / "ca.pem")
        self.secret = Secret((folder / "data" / "secret").read_bytes())
        self.tokens: Tokens

    def cpu_seconds(self) -> float:
        """Return the CPU time that the server process has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def resident_bytes(self) -> int:
        """Return the memory that the server process holds."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * PAGE_BYTES

    async def connect(self) -> asyncpg.Connection:
        """Return a connection of our own to the database."""
        url = make_url(self.cluster.url).set(drivername="postgresql")
        return await asyncpg.connect(url.render_as_string(hide_password=False))

    async def load_tokens(self) -> None:
        """Take the server's signing key, so that a thousand agents need no thousand logins."""
        engine = open_engine(self.cluster.url, Settings())
        async with engine.begin() as connection:
            keyring = await load_keyring(connection, self.secret)
        await engine.dispose()
        self.tokens = Tokens(keyring, 86_400, time.time)

    async def enroll(self, count: int, group: str) -> list[UUID]:
        """Add agents to a new group, by SQL."""
        ids = [uuid7_at(time.time()) for _ in range(count)]
        connection = await self.connect()
        await connection.execute("INSERT INTO groups (name) VALUES ($1)", group)
        await connection.execute(
            "INSERT INTO agents (id, name, key_hash) SELECT id, id::text, $2 FROM unnest($1::uuid[]) AS id",
            ids,
            self.secret.hash_key(KEY),
        )
        await connection.execute("INSERT INTO group_members SELECT $2, id FROM unnest($1::uuid[]) AS id", ids, group)
        await connection.execute("ANALYZE agents, group_members")
        await connection.close()
        return ids

    def token(self, agent_id: UUID) -> str:
        """Return a token as the server would issue it."""
        return self.tokens.issue(str(agent_id), AGENTS)

    def management(self) -> httpx.Client:
        """Return the administrator's client."""
        url = f"https://127.0.0.1:{self.management_port}"
        client = httpx.Client(base_url=url, verify=self.tls, timeout=120)
        answer = client.post("/security/user/authenticate", auth=("admin", PASSWORD)).raise_for_status()
        client.headers["Authorization"] = f"Bearer {answer.json()['data']['token']}"
        return client


def command(target: str, kind: str, timeout_seconds: float = 600) -> dict[str, object]:
    """Return a command to submit."""
    return {
        "source": "Engine",
        "target": {"id": target, "type": kind},
        "action": {"name": "restart", "args": {}},
        "timeout": timeout_seconds,
    }


@asynccontextmanager
async def running_system(folder: Path) -> AsyncIterator[System]:
    """Run a fresh system for the block."""
    with embedded_postgres(folder / "data") as cluster:
        process = _start_server(folder, cluster.url)
        try:
            system = System(folder, cluster, process, _read_ports(process))
            await system.load_tokens()
            yield system
        finally:
            process.terminate()
            process.communicate(timeout=60)


def _start_server(folder: Path, url: str) -> subprocess.Popen[str]:
    (folder / "password").write_text(PASSWORD)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COMMS_API_")} | {
        "COMMS_API_DATABASE_URL": url,
        "COMMS_API_DATA_DIR": str(folder / "data"),
        "COMMS_API_CERTS_DIR": str(folder / "certs"),
        "COMMS_API_AGENT_BIND": "127.0.0.1:0",
        "COMMS_API_MANAGEMENT_BIND": "127.0.0.1:0",
        "COMMS_API_ADMIN_PASSWORD_FILE": str(folder / "password"),
        "COMMS_API_POLL_WAIT_SECONDS": "3600",
        "COMMS_API_LEASE_SECONDS": "3600",
    }
    arguments: Sequence[str] = [sys.executable, "-m", "comms_api", "serve"]
    with (folder / "server.log").open("w") as log:
        return subprocess.Popen(  # noqa: S603 - our own program
            arguments, env=environment, stdout=subprocess.PIPE, stderr=log, text=True
        )


def _read_ports(process: subprocess.Popen[str]) -> tuple[int, int]:
    ports = []
    for line in process.stdout or ():
        if " API:" in line:
            ports.append(int(line.rpartition(":")[2]))
        if len(ports) == len(("agent", "management")):
            return ports[0], ports[1]
    raise RuntimeError("the server did not start")
