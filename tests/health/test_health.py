"""`/health/live` and `/health/ready`: the status for everybody, and the reasons for signed-in users."""

import asyncio
import signal
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
import trustme
from support.certificates import write_certificate
from support.databases import querying
from support.locks import until_blocked
from support.nats import nats_servers, stream_settings
from support.server import PASSWORD, Server, running_server
from support.small_disk import AS_ROOT, small_disk
from support.waiting import PATIENCE, wait_until

from comms_api.database.connection import Engine
from comms_api.database.revisions import newest_revision
from comms_api.embedded_postgresql.cluster import Cluster, embedded_postgres

CHECKS = ["node", "database", "schema", "sink", "duties", "disk", "certificate"]


@pytest.fixture
def cluster(scratch: Path) -> Iterator[Cluster]:
    """A PostgreSQL that a test may stop."""
    with embedded_postgres(scratch / "health", durable=False) as running:
        yield running


def reason(management: httpx.Client, name: str) -> tuple[int, str, str]:
    """Return the status of an answer, the status of one check, and its reason."""
    answer = management.get("/health/ready")
    [check] = [check for check in answer.json()["checks"] if check["name"] == name]
    return answer.status_code, check["status"], check["reason"]


def wait_for(management: httpx.Client, name: str, code: int, status: str, words: str = "") -> None:
    """Wait until a check has a status and its reason contains some words."""

    def holds() -> bool:
        *found, sentence = reason(management, name)
        return found == [code, status] and words in sentence

    wait_until(holds, says=lambda: management.get("/health/ready").text)


def test_strangers_and_agents_see_the_status_and_users_see_the_checks(server: Server, management: httpx.Client) -> None:
    agent = server.log_in(server.enroll(management, "healthy"))
    strangers = [server.client(url) for url in (server.agent_url, server.management_url)]
    for client in [*strangers, agent]:
        assert client.get("/health/live").json() == {"status": "pass"}
        assert client.get("/health/ready").json() in [{"status": "pass"}, {"status": "warn"}]
    assert strangers[1].get("/health/ready", headers={"Authorization": "Bearer x"}).status_code == 401
    for name, role in (("observer", "reader"), ("helper", "service")):
        answer = server.user(management, name, role).get("/api/v1/health/ready")
        assert (answer.status_code, [check["name"] for check in answer.json()["checks"]]) == (200, CHECKS)
    assert reason(management, "schema") == (200, "pass", "")


def test_a_draining_node_is_not_ready_but_lives(server: Server, management: httpx.Client) -> None:
    [node] = management.get("/nodes").json()
    management.post(f"/nodes/{node['name']}/drain")
    wait_for(management, "node", 503, "fail", "drains")
    answer = server.client(server.agent_url).get("/health/ready")
    assert (answer.status_code, answer.json()) == (503, {"status": "fail"})
    assert int(answer.headers["retry-after"]) >= 1
    assert server.client(server.agent_url).get("/health/live").status_code == 200
    management.post(f"/nodes/{node['name']}/resume")
    wait_for(management, "node", 200, "pass")


def test_a_node_without_its_database_is_not_ready(folder: Path, cluster: Cluster) -> None:
    with running_server(folder / "away", cluster.url) as server:
        management = server.management()
        wait_for(management, "database", 200, "pass")
        cluster.stop("fast")
        wait_for(management, "database", 503, "fail", "the database is away")
        assert reason(management, "duties")[1] == "warn"
        cluster.bring_up()
        wait_for(management, "database", 200, "pass")


def test_a_schema_without_a_revision_of_this_release_is_a_failure(
    folder: Path, new_database: Callable[[], str]
) -> None:
    url = new_database()
    with running_server(folder / "older", url) as server:
        management, query = server.management(), querying(url)
        query("UPDATE alembic_version SET version_num = '0001'")
        wait_for(management, "schema", 503, "fail", f"revision 0001, but this release needs {newest_revision()}")
        query("UPDATE alembic_version SET version_num = '9999'")
        wait_for(management, "schema", 200, "pass")


def test_a_duty_that_fails_is_a_warning(folder: Path, new_database: Callable[[], str]) -> None:
    url = new_database()
    with running_server(folder / "late", url) as server:
        management = server.management()
        querying(url)("ALTER TABLE revocations RENAME TO missing")
        wait_for(management, "duties", 200, "warn", "is late by")


def test_an_event_stream_that_is_away_is_a_warning(folder: Path, new_database: Callable[[], str]) -> None:
    with (
        nats_servers(folder / "nats", 1) as [nats],
        running_server(folder / "stream", new_database(), **stream_settings([nats])) as server,
    ):
        management = server.management()
        wait_for(management, "sink", 200, "pass")
        nats.kill()
        wait_for(management, "sink", 200, "warn", "the servers cannot be used")


@AS_ROOT
def test_a_full_disk_is_a_warning(folder: Path, new_database: Callable[[], str]) -> None:
    with (
        small_disk(folder / "small") as disk,
        running_server(folder / "full", new_database(), data_dir=disk) as server,
    ):
        wait_for(server.management(), "disk", 200, "warn", f"the file system of {disk} has 6")


def test_an_expiring_certificate_is_a_warning_and_an_expired_one_a_failure(
    folder: Path, new_database: Callable[[], str]
) -> None:
    authority, now = trustme.CA(), datetime.now(UTC)
    soon = write_certificate(folder / "tls", authority, "127.0.0.1", expires_at=now + timedelta(days=3))
    with (
        running_server(folder / "expiring", new_database(), **soon) as server,
        httpx.Client(base_url=server.management_url, verify=trusting_anybody(), timeout=PATIENCE) as management,
    ):
        token = management.post("/security/user/authenticate", auth=("admin", PASSWORD)).json()["data"]["token"]
        management.headers["Authorization"] = f"Bearer {token}"
        wait_for(management, "certificate", 200, "warn", f"{now + timedelta(days=3):%Y-%m-%d}")
        for days, code, status in ((-1, 503, "fail"), (90, 200, "pass")):
            write_certificate(folder / "tls", authority, "127.0.0.1", expires_at=now + timedelta(days=days))
            server.process.send_signal(signal.SIGHUP)
            wait_for(management, "certificate", code, status)


def trusting_anybody() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


@pytest.mark.anyio
async def test_a_check_that_hangs_is_bounded_and_runs_once_for_a_crowd(
    server: Server, management: httpx.Client, engine: Engine
) -> None:
    strangers = [server.client(server.management_url) for _ in range(20)]
    async with engine.begin() as connection:
        await connection.driver.execute("LOCK TABLE alembic_version")
        await asyncio.to_thread(wait_for, management, "schema", 200, "warn", "has not ended within")
        with ThreadPoolExecutor(20) as crowd:
            answers = list(crowd.map(lambda client: client.get("/health/ready").json(), strangers * 5))
        assert answers == [{"status": "warn"}] * 100
        await until_blocked(engine, [], blocked=1)
    await asyncio.to_thread(wait_for, management, "schema", 200, "pass")
