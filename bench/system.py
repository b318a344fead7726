"""The system under measurement: a durable PostgreSQL, one server process, and any number of agents."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from signal import SIGTERM, Signals
from uuid import UUID

import asyncpg
import psutil
from sqlalchemy import make_url

from comms_api.cli.server_process import ServerProcess, server_environment
from comms_api.database.connect import open_engine
from comms_api.database.uuid7 import uuid7_at
from comms_api.embedded_postgresql.cluster import Cluster, embedded_postgres
from comms_api.login.keys import SigningKeys
from comms_api.settings import Settings
from comms_api.tokens.issuer import AGENTS, MANAGEMENT, Tokens
from comms_api.tokens.secret import Secret

ADMINISTRATOR = "admin"
KEY = "k" * 32
TOKEN_SECONDS = 86_400
ARCHIVE_DAYS = 30
"""Longer than the history of grown tables, which would be archived during some measurements only."""


class System:
    """A running server, and direct access to its database."""

    def __init__(self, cluster: Cluster, server: ServerProcess) -> None:
        self.folder = server.folder
        self.cluster = cluster
        self.server = server
        self.agent_port, self.management_port = server.agent_port, server.management_port
        self.tls = server.tls
        self._secret = Secret((self.folder / "data" / "secret").read_bytes())
        postmaster = (cluster.path / "postmaster.pid").read_text().split()[0]
        self._postmaster = psutil.Process(int(postmaster))
        self._tokens: Tokens
        self._issued: dict[UUID, str] = {}

    @property
    def _server_process(self) -> psutil.Process:
        return psutil.Process(self.server.process.pid)

    async def stop(self, with_signal: Signals = SIGTERM) -> None:
        """End the server, and return when it has ended."""
        await asyncio.to_thread(self.server.stop, with_signal)

    async def restart(self, *, workers: int = 1) -> None:
        """End the server if it still runs, and start it on the same ports with this many workers."""
        await self.stop()
        self.server = await _start_server(
            self.folder,
            self.cluster.url,
            workers=workers,
            agent_bind=f"127.0.0.1:{self.agent_port}",
            management_bind=f"127.0.0.1:{self.management_port}",
        )

    def cpu(self) -> dict[str, float]:
        """Return the CPU seconds that the server (all its workers), PostgreSQL and this load generator have used."""
        database = [*self._postmaster.children(recursive=True), self._postmaster]
        server = [*self._server_process.children(recursive=True), self._server_process]
        times = self._postmaster.cpu_times()
        return {
            "server": sum(map(_cpu_seconds, server)),
            "postgresql": sum(map(_cpu_seconds, database)) + times.children_user + times.children_system,
            "load": time.process_time(),
        }

    def cpu_since(self, before: Mapping[str, float], count: int) -> dict[str, float]:
        """Return the CPU microseconds since `before` for each of `count` requests or items."""
        return {name: (seconds - before[name]) / count * 1e6 for name, seconds in self.cpu().items()}

    def resident_bytes(self) -> int:
        """Return the resident memory of the server process."""
        return int(self._server_process.memory_info().rss)

    def unshared_bytes(self) -> int:
        """Return the memory that would be free if the server process ended."""
        return int(self._server_process.memory_full_info().uss)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[asyncpg.Connection]:
        """Open a connection to the database for the block."""
        url = make_url(self.cluster.url).set(drivername="postgresql")
        connection = await asyncpg.connect(url.render_as_string(hide_password=False))
        try:
            yield connection
        finally:
            await connection.close()

    async def checkpoint(self) -> None:
        """Write dirty pages to disk, so that the next measurement does not pay for earlier ones."""
        async with self.session() as connection:
            await connection.execute("CHECKPOINT")

    async def load_tokens(self) -> None:
        """Load the server's signing keys, so that agents need no logins to get tokens."""
        engine = open_engine(self.cluster.url, Settings())
        async with engine.begin() as connection:
            keyring = await SigningKeys(engine, self._secret, Settings()).load(connection)
        await engine.dispose()
        self._tokens = Tokens(keyring, TOKEN_SECONDS, time.time)

    def token(self, agent_id: UUID) -> str:
        """Return an agent's token as the server would issue it; an agent keeps its token."""
        if agent_id not in self._issued:
            self._issued[agent_id] = self._tokens.issue(str(agent_id), AGENTS)
        return self._issued[agent_id]

    def administrator_token(self) -> str:
        """Return the administrator's token as the server would issue it."""
        return self.user_token(ADMINISTRATOR, "administrator")

    def user_token(self, name: str, role: str) -> str:
        """Return the token of a user with a role, as the server would issue it; the user need not exist."""
        return self._tokens.issue(name, MANAGEMENT, role)

    async def enroll(self, count: int, group: str, *, is_key_weak: bool = False) -> list[UUID]:
        """Add agents to a group by SQL, and create the group if needed; a weak key is hashed slowly."""
        ids = [uuid7_at(time.time()) for _ in range(count)]
        key_hash = self._secret.hash_weak_key(KEY) if is_key_weak else self._secret.hash_key(KEY)
        async with self.session() as connection:
            await connection.execute("INSERT INTO groups (name) VALUES ($1) ON CONFLICT DO NOTHING", group)
            await connection.execute(
                "INSERT INTO agents (id, name, key_hash) SELECT id, id::text, $2 FROM unnest($1::uuid[]) AS id",
                ids,
                key_hash,
            )
            await connection.execute(
                "INSERT INTO group_members SELECT $2, id FROM unnest($1::uuid[]) AS id", ids, group
            )
            await connection.execute("VACUUM ANALYZE agents, group_members")
        return ids


def _cpu_seconds(process: psutil.Process) -> float:
    """Return the CPU time of a process, 0 if it has just ended: its parent counts it then."""
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


@asynccontextmanager
async def running_system(folder: Path) -> AsyncIterator[System]:
    """Run a fresh system for the block."""
    with embedded_postgres(folder / "data", durable=True) as cluster:
        system = System(cluster, await _start_server(folder, cluster.url))
        try:
            await system.load_tokens()
            yield system
        finally:
            await system.stop()


@asynccontextmanager
async def second_node(system: System, variables: Mapping[str, str]) -> AsyncIterator[System]:
    """Run another node on the same database and folder for the block, with further environment variables."""
    server = await _start_server(system.folder, system.cluster.url, variables, node_name="second")
    node = System(system.cluster, server)
    try:
        yield node
    finally:
        await node.stop()


async def _start_server(
    folder: Path, url: str, variables: Mapping[str, str] | None = None, **settings: object
) -> ServerProcess:
    settings = {
        "database_url": url,
        "poll_wait_seconds": 3600,
        "lease_seconds": 3600,
        "token_lifetime_seconds": TOKEN_SECONDS,
        "orders_archive_days": ARCHIVE_DAYS,
        **settings,
    }
    environment = server_environment(folder, **settings) | dict(variables or {})
    return await asyncio.to_thread(ServerProcess.start, folder, environment)
