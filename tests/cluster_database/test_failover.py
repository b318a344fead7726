"""A primary is killed under load: writes continue with its standby, and nothing acknowledged is lost."""

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from support.batches import command
from support.databases import PATIENT
from support.fleet import Fleet, Pace, events, logins, states
from support.ledger import assert_all_are_stored_once, stored_items
from support.polls import held_polls
from support.replication import Postgres, primary_and_standby
from support.server import Server, environment, running_server
from support.waiting import PATIENCE, until, wait_until

from comms_api.database.address.hosts import DEAD_HOST_SECONDS
from comms_api.database.connect import open_engine
from comms_api.database.connection import Engine
from comms_api.database.failures import LateAnswer, translate
from comms_api.settings import Settings

LEASE_SECONDS = 2
SWEEP_SECONDS = POLL_SECONDS = 3600
"""So long that an order that arrives sooner must have been announced by a notification."""

PACE = Pace(pause_seconds=0.02, retry_seconds=0.1, poll_seconds=1)

Servers = tuple[Postgres, Postgres]


@pytest.fixture(scope="module")
def servers(scratch: Path) -> Iterator[Servers]:
    with primary_and_standby(scratch / "replicated") as pair:
        yield pair


@pytest.fixture(scope="module")
def url(servers: Servers) -> str:
    hosts = ",".join(server.address for server in servers)
    return f"postgresql://comms_api@{hosts}/comms_api?target_session_attrs=read-write"


@pytest.fixture(scope="module")
def migrated(folder: Path, url: str) -> None:
    """The schema, created by the command `alembic`."""
    configuration = Path(__file__).parents[2] / "alembic.ini"
    upgrade = [sys.executable, "-m", "alembic", "-c", configuration, "upgrade", "head"]
    done = subprocess.run(
        upgrade, env=environment(folder, url), cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def nodes(folder: Path, url: str, migrated: None) -> Iterator[tuple[Server, Server]]:
    """Two nodes on one database: one node receives a submission, the other holds the agent's poll."""
    del migrated
    settings = {"lease_seconds": LEASE_SECONDS, "sweep_seconds": SWEEP_SECONDS, "poll_wait_seconds": POLL_SECONDS}
    with running_server(folder, url, **settings) as one, running_server(folder, url, **settings) as other:
        yield one, other


@pytest.mark.anyio
async def test_connections_lead_to_the_primary_and_notice_a_dead_host(servers: Servers, url: str) -> None:
    turned = url.replace(servers[0].address, "x").replace(servers[1].address, servers[0].address)
    for hosts in (url, turned.replace("x", servers[1].address)):
        engine = open_engine(hosts, PATIENT)
        async with engine.connect() as connection:
            assert await connection.scalar(text("SELECT inet_server_port()")) == servers[0].port
            driver = connection.driver
            peer = driver._transport.get_extra_info("socket")  # noqa: SLF001 - asyncpg has no public way
            assert peer.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == DEAD_HOST_SECONDS * 1000
        await engine.dispose()


@pytest.mark.anyio
async def test_keepalives_follow_the_url(servers: Servers, url: str) -> None:
    del servers
    engine = open_engine(f"{url}&keepalives_idle=9&tcp_user_timeout=0", Settings())
    async with engine.connect() as connection:
        driver = connection.driver
        peer = driver._transport.get_extra_info("socket")  # noqa: SLF001 - asyncpg has no public way
        assert peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 9
        assert peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 0
    await engine.dispose()


async def insert(engine: Engine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("INSERT INTO waiting VALUES (1)"))


async def insert_at_once(engine: Engine) -> None:
    async with engine.connect() as connection:
        await connection.execute(text("INSERT INTO waiting VALUES (1)"), {})


async def copy(engine: Engine) -> None:
    async with engine.connect() as connection:
        await connection.driver.copy_records_to_table("waiting", records=[(1,)])


async def count(engine: Engine) -> object:
    async with engine.connect() as connection:
        return await connection.scalar(text("SELECT count(*) FROM waiting"))


@pytest.mark.anyio
async def test_a_commit_that_waits_for_its_standby_is_invisible(servers: Servers, url: str) -> None:
    primary, standby = servers
    engine, patient = open_engine(url, Settings(database_timeout_seconds=2)), open_engine(url, PATIENT)
    async with patient.begin() as connection:
        await connection.execute(text("CREATE TABLE waiting (n int)"))
    await asyncio.to_thread(standby.stop)
    writes = (write(engine) for write in (insert, insert_at_once, copy))
    outcomes = await asyncio.gather(*writes, return_exceptions=True)
    assert [type(translate(outcome)) for outcome in outcomes if isinstance(outcome, Exception)] == [LateAnswer] * 3
    await asyncio.sleep(0.5)
    assert await count(patient) == 0
    await asyncio.to_thread(standby.start)
    await asyncio.to_thread(wait_until, lambda: primary.query("TABLE waiting") == [(1,)] * 3)
    for opened in (engine, patient):
        await opened.dispose()


BUSY = 4


@pytest.fixture(scope="module")
def fleet(nodes: tuple[Server, Server]) -> Fleet:
    """Agents of one node that send, poll and report; an operator submits their orders to the other node."""
    node, other = nodes
    fleet = Fleet(node.tls, node.agent_port, PACE)
    management, submitting = node.management(), other.management()
    for number in range(BUSY):
        agent_id = node.enroll(management, f"busy {number}")
        fleet.send(agent_id, events)
        fleet.send(agent_id, states)
        fleet.poll(agent_id)
        fleet.submit(submitting, other.management_port, command(agent_id), PACE.pause_seconds)
    fleet.send(agent_id, logins)
    return fleet


async def fail_over(servers: Servers, nodes: tuple[Server, Server], fleet: Fleet, token: str) -> None:
    """Kill the primary and promote its standby while a poll is held."""
    primary, standby = servers
    async with held_polls(nodes[0].tls, nodes[0].agent_port, [token], POLL_SECONDS) as [held]:
        await asyncio.sleep(2)
        primary.kill()
        killed = time.monotonic()
        await asyncio.sleep(1)  # the shortest time that a failover manager takes
        await asyncio.to_thread(standby.promote)
        promoted = time.monotonic()
        await until(lambda: fleet.ledger.is_answered_since(promoted))
        await asyncio.sleep(1)
        assert held.is_held
        print(f"\npromoted {promoted - killed:.2f} s after the kill\n{fleet.ledger.report(killed)}")


@pytest.mark.faults
def test_nothing_acknowledged_is_lost_and_writes_continue(
    servers: Servers, nodes: tuple[Server, Server], fleet: Fleet
) -> None:
    idle, query = nodes[0].enroll(nodes[0].management(), "idle"), servers[1].query
    with fleet.running():
        asyncio.run(fail_over(servers, nodes, fleet, nodes[0].token(idle)))
        fleet.stop_sending()
        wait_until(lambda: query("SELECT count(*) FROM orders") == [(0,)])
    ledger, stored = fleet.ledger, stored_items(query)
    assert set(ledger.refused()) == {"503 with Retry-After"}
    assert ledger.connections_lost() == 0
    assert_all_are_stored_once(ledger, stored)
    assert all(len(ledger.acknowledged(kind)) > BUSY for kind in stored)
    assert set(stored["orders"].values()) == {1}


@pytest.mark.faults
@pytest.mark.anyio
async def test_after_a_failover_nodes_notify_one_another_of_orders_again(nodes: tuple[Server, Server]) -> None:
    management = await asyncio.to_thread(nodes[1].management)
    agent_id = await asyncio.to_thread(nodes[1].enroll, management, "listener")
    token = await asyncio.to_thread(nodes[0].token, agent_id)
    async with held_polls(nodes[0].tls, nodes[0].agent_port, [token], POLL_SECONDS) as [held]:
        started = time.monotonic()
        answer = await asyncio.to_thread(management.post, "/commands", json=command(agent_id))
        orders = (await asyncio.wait_for(held.answer, PATIENCE)).commands
        print(f"\nan order submitted to one node answered the other's poll in {time.monotonic() - started:.3f} s")
        assert [str(order.order_id) for order in orders] == answer.json()["commands"][0]["order_ids"]
