"""A primary that is killed under load: writes go on with its standby, and nothing that was acknowledged is lost."""

import asyncio
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import text
from support.batches import command
from support.databases import PATIENT
from support.load import Load
from support.polls import held_polls
from support.replication import Postgres, primary_and_standby
from support.server import Server, environment, running_server
from support.waiting import PATIENCE, wait_until

from comms_api.database.address.hosts import DEAD_HOST_SECONDS
from comms_api.database.connect import open_engine
from comms_api.database.connection import Engine
from comms_api.settings import Settings

LEASE_SECONDS = 2
SWEEP_SECONDS = POLL_SECONDS = 3600
"""So long that what arrives sooner was notified of."""

Servers = tuple[Postgres, Postgres]


@pytest.fixture(scope="module")
def servers(scratch: Path) -> Iterator[Servers]:
    with primary_and_standby(scratch / "replicated") as both:
        yield both


@pytest.fixture(scope="module")
def url(servers: Servers) -> str:
    hosts = ",".join(server.address for server in servers)
    return f"postgresql://comms_api@{hosts}/comms_api?target_session_attrs=read-write"


@pytest.fixture(scope="module")
def migrated(folder: Path, url: str) -> None:
    """The schema, made by Alembic's own command."""
    configuration = Path(__file__).parents[2] / "alembic.ini"
    upgrade = [sys.executable, "-m", "alembic", "-c", configuration, "upgrade", "head"]
    done = subprocess.run(
        upgrade, env=environment(folder, url), cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def nodes(folder: Path, url: str, migrated: None) -> Iterator[tuple[Server, Server]]:
    """Two nodes on one database, so that an order that is submitted to one is heard of by the other."""
    del migrated
    settings = {"lease_seconds": LEASE_SECONDS, "sweep_seconds": SWEEP_SECONDS, "poll_wait_seconds": POLL_SECONDS}
    with running_server(folder, url, **settings) as one, running_server(folder, url, **settings) as other:
        yield one, other


@pytest.mark.anyio
async def test_connections_are_to_the_primary_and_notice_a_host_that_is_gone(servers: Servers, url: str) -> None:
    turned = url.replace(servers[0].address, "x").replace(servers[1].address, servers[0].address)
    for hosts in (url, turned.replace("x", servers[1].address)):
        engine = open_engine(hosts, PATIENT)
        async with engine.connect() as connection:
            assert await connection.scalar(text("SELECT inet_server_port()")) == servers[0].port
            driver = connection.driver
            peer = driver._transport.get_extra_info("socket")  # noqa: SLF001 - there is no public way
            assert peer.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == DEAD_HOST_SECONDS * 1000
        await engine.dispose()


@pytest.mark.anyio
async def test_keepalives_are_as_the_url_says(servers: Servers, url: str) -> None:
    del servers
    engine = open_engine(f"{url}&keepalives_idle=9&tcp_user_timeout=0", Settings())
    async with engine.connect() as connection:
        driver = connection.driver
        peer = driver._transport.get_extra_info("socket")  # noqa: SLF001 - there is no public way
        assert peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 9
        assert peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 0
    await engine.dispose()


async def insert(engine: Engine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("INSERT INTO held_up VALUES (1)"))


async def insert_at_once(engine: Engine) -> None:
    async with engine.connect() as connection:
        await connection.execute(text("INSERT INTO held_up VALUES (1)"), {})


async def copy(engine: Engine) -> None:
    async with engine.connect() as connection:
        await connection.driver.copy_records_to_table("held_up", records=[(1,)])


async def count(engine: Engine) -> object:
    async with engine.connect() as connection:
        return await connection.scalar(text("SELECT count(*) FROM held_up"))


@pytest.mark.anyio
async def test_a_commit_that_its_standby_holds_up_is_shown_to_nobody(servers: Servers, url: str) -> None:
    primary, standby = servers
    engine, patient = open_engine(url, Settings(database_timeout_seconds=2)), open_engine(url, PATIENT)
    async with patient.begin() as connection:
        await connection.execute(text("CREATE TABLE held_up (n int)"))
    await asyncio.to_thread(standby.stop)
    writes = (write(engine) for write in (insert, insert_at_once, copy))
    outcomes = await asyncio.gather(*writes, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [TimeoutError] * 3
    await asyncio.sleep(0.5)
    assert await count(patient) == 0
    await asyncio.to_thread(standby.start)
    await asyncio.to_thread(wait_until, lambda: primary.query("TABLE held_up") == [(1,)] * 3)
    for opened in (engine, patient):
        await opened.dispose()


BUSY = 4


@pytest.fixture(scope="module")
def busy(nodes: tuple[Server, Server]) -> list[UUID]:
    management = nodes[0].management()
    return [nodes[0].enroll(management, f"busy {number}") for number in range(BUSY)]


@pytest.fixture(scope="module")
def load(nodes: tuple[Server, Server], busy: list[UUID]) -> Load:
    node, other = nodes
    made = Load(other)
    for agent_id in busy:
        made.add_events(agent_id, node.log_in(agent_id))
        made.add_states(agent_id, node.log_in(agent_id))
        made.add_orders(agent_id)
        made.add_results(node.log_in(agent_id))
    made.add_logins(busy[0], node.client(node.agent_url))
    return made


async def fail_over(servers: Servers, nodes: tuple[Server, Server], load: Load, token: str) -> None:
    """Kill the primary and promote its standby while a poll is held."""
    primary, standby = servers
    async with held_polls(nodes[0].tls, nodes[0].agent_port, [token], POLL_SECONDS) as [held]:
        await asyncio.sleep(2)
        primary.kill()
        killed = time.monotonic()
        await asyncio.sleep(1)  # what a failover manager takes at the very least
        await asyncio.to_thread(standby.promote)
        promoted = time.monotonic()
        await asyncio.to_thread(load.wait_for_all, promoted)
        await asyncio.sleep(1)
        assert held.is_held
        print(f"\npromoted {promoted - killed:.2f} s after the kill\n{load.report(killed)}")


def drain_orders(node: Server, busy: list[UUID]) -> None:
    """Report what is still open, such as orders whose answer was lost with the primary."""
    time.sleep(LEASE_SECONDS)
    for agent_id in busy:
        client = node.log_in(agent_id)
        while orders := client.get("/commands?wait=0").json()["commands"]:
            results = [{"order_id": order["order_id"], "result": {"code": 0}} for order in orders]
            assert client.post("/commands/results", json={"results": results}).status_code == 200


@pytest.mark.faults
def test_nothing_acknowledged_is_lost_and_writes_go_on(
    servers: Servers, nodes: tuple[Server, Server], load: Load, busy: list[UUID]
) -> None:
    idle = nodes[0].enroll(nodes[0].management(), "idle")
    with load.running():
        asyncio.run(fail_over(servers, nodes, load, nodes[0].token(idle)))
    drain_orders(nodes[0], busy)
    assert load.broken == []
    refused = sum((sender.refused for sender in load.senders), Counter[str]())
    assert set(refused) == {"503 with Retry-After"}
    found = {
        "events": [row[0] for row in servers[1].query("SELECT event->>'n' FROM events")],
        "states": [row[0] for row in servers[1].query("SELECT data->>'n' FROM states WHERE module = 'fim'")],
        "orders": [str(row[0]) for row in servers[1].query("SELECT order_id FROM finished_orders")],
        "results": [
            str(row[0]) for row in servers[1].query("SELECT order_id FROM finished_orders WHERE status = 'success'")
        ],
    }
    for kind, names in found.items():
        lost = load.acknowledged(kind) - set(names)
        print(f"{kind:8} {len(names):5} found, {len(names) - len(set(names))} of them twice, {len(lost)} lost")
        assert (len(load.acknowledged(kind)) > BUSY, lost) == (True, set())
    assert len(found["orders"]) == len(set(found["orders"]))
    assert servers[1].query("SELECT count(*) FROM orders") == [(0,)]


@pytest.mark.faults
@pytest.mark.anyio
async def test_after_a_failover_nodes_hear_of_one_another_s_orders_again(nodes: tuple[Server, Server]) -> None:
    management = await asyncio.to_thread(nodes[1].management)
    agent_id = await asyncio.to_thread(nodes[1].enroll, management, "listener")
    token = await asyncio.to_thread(nodes[0].token, agent_id)
    async with held_polls(nodes[0].tls, nodes[0].agent_port, [token], POLL_SECONDS) as [held]:
        started = time.monotonic()
        answer = await asyncio.to_thread(management.post, "/commands", json=command(agent_id))
        orders = (await asyncio.wait_for(held.answer, PATIENCE)).commands
        print(f"\nan order submitted to one node answered the other's poll in {time.monotonic() - started:.3f} s")
        assert [str(order.order_id) for order in orders] == answer.json()["commands"][0]["order_ids"]
