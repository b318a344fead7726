"""The files of deploy/patroni with the real programs: a crash, a planned change of the leader, the loss of its host.

Not part of `make test`, since it wants programs of Debian: `make test-patroni`.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote_plus

import asyncpg
import pytest
from support.load import Load
from support.patroni import PASSWORD, Host, patroni_hosts, roles
from support.server import running_server

from comms_api.embedded_postgresql.home import eventually

pytestmark = pytest.mark.patroni

CRASH_SECONDS = 10
LOST_HOST_SECONDS = 35
"""The lease of 20 s, the election, and what a busy machine adds."""

HEALED_SECONDS = 90


@pytest.fixture(scope="module")
def hosts(scratch: Path) -> Iterator[list[Host]]:
    with patroni_hosts(scratch / "patroni") as running:
        yield running


def on_primary(hosts: list[Host], user: str, database: str, *statements: str) -> list[asyncpg.Record]:
    """Run statements where they can write and return the last one's rows."""

    async def run() -> list[asyncpg.Record]:
        url = f"postgresql://{user}:{PASSWORD}@{','.join(host.address for host in hosts)}/{database}"
        connection = await asyncpg.connect(f"{url}?target_session_attrs=read-write")
        try:
            return [await connection.fetch(statement) for statement in statements][-1]
        finally:
            await connection.close()

    return asyncio.run(run())


def leader(hosts: list[Host]) -> Host:
    found = {name: role for name, role in roles(hosts).items() if role == "leader"}
    return next(host for host in hosts if host.name in found)


def has_healed(hosts: list[Host], members: int) -> bool:
    """Whether there are a leader and its synchronous standby among so many that run."""
    found = sorted(roles(hosts).values())
    return len(found) == members and {"leader", "sync_standby"} <= set(found)


def kill_and_wait(load: Load, hosts: list[Host], kill: Callable[[Host], None], seconds: float) -> Host:
    """Kill the leader, wait until writes succeed with another, print how long that took, and return the old leader."""
    old, began = leader(hosts), time.monotonic()
    kill(old)
    others = [host for host in hosts if host is not old]
    assert eventually(lambda: leader_among(others), HEALED_SECONDS), roles(others)
    print(f"\n{old.name} led, {leader(others).name} leads after {time.monotonic() - began:.1f} s")
    load.wait_for_all(time.monotonic(), seconds)
    print(load.report(began))
    assert load.longest_pause(began) <= seconds
    return old


def test_a_crash_a_switchover_and_the_loss_of_the_leaders_host_lose_nothing(folder: Path, hosts: list[Host]) -> None:
    on_primary(
        hosts, "postgres", "postgres",
        f"CREATE ROLE comms_api LOGIN PASSWORD '{PASSWORD}'", "CREATE DATABASE comms_api OWNER comms_api",
    )  # fmt: skip
    addresses = ",".join(host.address for host in hosts)
    tls = f"sslmode=verify-full&sslrootcert={quote_plus(str(hosts[0].folder.parent / 'ca.pem'))}"
    url = f"postgresql://comms_api:{PASSWORD}@{addresses}/comms_api?target_session_attrs=read-write&{tls}"
    with running_server(folder, url, lease_seconds=2) as node:
        load, agent_id = Load(node), node.enroll(node.management(), "patient")
        client = node.log_in(agent_id)
        load.add_events(agent_id, client)
        load.add_states(agent_id, node.log_in(agent_id))
        load.add_orders(agent_id)
        load.add_results(node.log_in(agent_id))
        with load.running():
            time.sleep(3)
            kill_and_wait(load, hosts, Host.kill_postgres, CRASH_SECONDS)
            assert eventually(lambda: has_healed(hosts, 3), HEALED_SECONDS), roles(hosts)
            kill_and_wait(load, hosts, Host.switch_over, CRASH_SECONDS)
            assert eventually(lambda: has_healed(hosts, 3), HEALED_SECONDS), roles(hosts)
            lost = kill_and_wait(load, hosts, lambda host: host.kill("patroni", "etcd"), LOST_HOST_SECONDS)
            time.sleep(1)
        encrypted = "SELECT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = 'comms-api'"
        rest = [host for host in hosts if host is not lost]
        assert set(on_primary(rest, "postgres", "postgres", encrypted)) == {(True,)}
    assert load.broken == []
    assert set().union(*(sender.refused for sender in load.senders)) == {"503 with Retry-After"}
    for kind, statement in {
        "events": "SELECT event->>'n' FROM events",
        "states": "SELECT data->>'n' FROM states WHERE module = 'fim'",
        "orders": "SELECT order_id::text FROM orders UNION ALL SELECT order_id::text FROM finished_orders",
        "results": "SELECT order_id::text FROM finished_orders WHERE status = 'success'",
    }.items():
        found = [row[0] for row in on_primary(rest, "comms_api", "comms_api", statement)]
        missing = load.acknowledged(kind) - set(found)
        print(f"{kind:8} {len(load.acknowledged(kind)):5} acknowledged, {len(found):5} found, {len(missing)} lost")
        assert missing == set()


def leader_among(hosts: list[Host]) -> bool:
    """Whether one of these leads."""
    return any(roles(hosts).get(host.name) == "leader" for host in hosts)
