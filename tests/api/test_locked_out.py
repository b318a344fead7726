"""A database that refuses its running nodes is an outage, until the operator admits them again."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

import asyncpg
import httpx
import pytest
from support.server import KEY, PASSWORD, Server, running_server
from support.waiting import wait_until

from comms_api.embedded_postgresql.cluster import Cluster, embedded_postgres

pytestmark = pytest.mark.anyio


class LockOut(NamedTuple):
    """The statements that lock nodes out and admit them again, and the reason in the nodes' log."""

    statements: tuple[str, ...]
    reversal: tuple[str, ...]
    reason: str


END_SESSIONS = """
    SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity
    WHERE datname = 'comms_api' AND backend_type = 'client backend'
"""  # waits until each has ended: until then it may still answer a statement
CLOSE = "ALTER DATABASE comms_api ALLOW_CONNECTIONS false"
REOPEN = "ALTER DATABASE comms_api ALLOW_CONNECTIONS true"

LOCK_OUTS = {
    "renamed": LockOut(
        (CLOSE, END_SESSIONS, "ALTER DATABASE comms_api RENAME TO elsewhere"),
        ("ALTER DATABASE elsewhere RENAME TO comms_api", REOPEN),
        'InvalidCatalogNameError: database "comms_api" does not exist',
    ),
    "closed": LockOut((CLOSE, END_SESSIONS), (REOPEN,), 'database "comms_api" is not currently accepting connections'),
    "no login": LockOut(
        ("ALTER ROLE comms_api NOLOGIN", END_SESSIONS),
        ("ALTER ROLE comms_api LOGIN",),
        'role "comms_api" is not permitted to log in',
    ),
}


@pytest.fixture(scope="module")
def cluster(scratch: Path) -> Iterator[Cluster]:
    with embedded_postgres(scratch / "locked out", durable=False) as running:
        yield running


@pytest.fixture(scope="module")
def server(cluster: Cluster, folder: Path) -> Iterator[Server]:
    with running_server(folder, cluster.url) as running:
        yield running


@pytest.fixture
async def postgres_session(cluster: Cluster) -> AsyncIterator[asyncpg.Connection]:
    """A session of the operator in another database."""
    host = str(cluster.socket_dir)
    connection = await asyncpg.connect(host=host, port=5432, user="comms_api", database="postgres")
    yield connection
    await connection.close()


@pytest.mark.parametrize("name", LOCK_OUTS)
async def test_a_node_that_is_locked_out_answers_503_until_it_is_admitted_again(
    server: Server, management: httpx.Client, postgres_session: asyncpg.Connection, name: str
) -> None:
    agent_id, lock_out = server.enroll(management, f"locked-{name}"), LOCK_OUTS[name]
    try:
        for statement in lock_out.statements:
            await postgres_session.execute(statement)
        expect_503(log_in(server, agent_id), log_in_user(server), show_agents(management))
    finally:
        for statement in lock_out.reversal:
            await postgres_session.execute(statement)
    wait_until(lambda: log_in(server, agent_id).status_code == 200)
    log = (server.folder / "log").read_text()
    assert lock_out.reason in log
    assert "Traceback" not in log


def expect_503(*answers: httpx.Response) -> None:
    for answer in answers:
        assert answer.status_code == 503, answer.text
        assert 1 <= int(answer.headers["Retry-After"]) <= 5


def show_agents(management: httpx.Client) -> httpx.Response:
    return management.get("/agents")


def log_in(server: Server, agent_id: UUID) -> httpx.Response:
    return server.client(server.agent_url).post("/login", json={"uuid": str(agent_id), "key": KEY})


def log_in_user(server: Server) -> httpx.Response:
    return server.client(server.management_url).post("/security/user/authenticate", auth=("admin", PASSWORD))
