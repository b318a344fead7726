"""Run deploy/patroni with the real programs: a crash, a switchover, and the loss of the leader's host.

It needs programs of Debian, so `make test` leaves it out: run `make test-patroni`.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from urllib.parse import quote_plus

import asyncpg
import pytest
from support.batches import command
from support.fleet import Fleet, Pace, events, states
from support.ledger import Ledger, assert_all_are_stored_once, stored_items
from support.patroni import PASSWORD, Host, patroni_hosts, roles
from support.server import running_server
from support.waiting import wait_until

from comms_api.embedded_postgresql.home import eventually

pytestmark = pytest.mark.patroni

CRASH_SECONDS = 10
LOST_HOST_SECONDS = 35
"""The lease of 20 s, the election, and the delay of a busy machine."""

HEALED_SECONDS = 90
PACE = Pace(pause_seconds=0.02, retry_seconds=0.1, poll_seconds=1)


@pytest.fixture(scope="module")
def hosts(scratch: Path) -> Iterator[list[Host]]:
    with patroni_hosts(scratch / "patroni") as running:
        yield running


def on_primary(hosts: list[Host], user: str, database: str, *statements: str) -> list[asyncpg.Record]:
    """Run statements on the primary and return the rows of the last one."""

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
    """Return whether this many members run, among them a leader and its synchronous standby."""
    found = sorted(roles(hosts).values())
    return len(found) == members and {"leader", "sync_standby"} <= set(found)


def kill_and_wait(ledger: Ledger, hosts: list[Host], kill: Callable[[Host], None], seconds: float) -> Host:
    """Kill the leader, wait until writes succeed with another, print how long that took, and return the old leader."""
    old, killed_at = leader(hosts), time.monotonic()
    kill(old)
    others = [host for host in hosts if host is not old]
    assert eventually(lambda: leader_among(others), HEALED_SECONDS), roles(others)
    print(f"\n{old.name} led, {leader(others).name} leads after {time.monotonic() - killed_at:.1f} s")
    elected_at = time.monotonic()
    wait_until(lambda: ledger.is_answered_since(elected_at), patience_seconds=seconds)
    print(ledger.report(killed_at))
    assert ledger.longest_pause(killed_at) <= seconds
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
        fleet, management = Fleet(node.tls, node.agent_port, PACE), node.management()
        agent_id = node.enroll(management, "patient")
        fleet.send(agent_id, events)
        fleet.send(agent_id, states)
        fleet.poll(agent_id)
        fleet.submit(management, node.management_port, command(agent_id), PACE.pause_seconds)
        ledger = fleet.ledger
        with fleet.running():
            time.sleep(3)
            kill_and_wait(ledger, hosts, Host.kill_postgres, CRASH_SECONDS)
            assert eventually(lambda: has_healed(hosts, 3), HEALED_SECONDS), roles(hosts)
            kill_and_wait(ledger, hosts, Host.switch_over, CRASH_SECONDS)
            assert eventually(lambda: has_healed(hosts, 3), HEALED_SECONDS), roles(hosts)
            lost = kill_and_wait(ledger, hosts, lambda host: host.kill("patroni", "etcd"), LOST_HOST_SECONDS)
            time.sleep(1)
        encrypted = "SELECT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = 'comms-api'"
        others = [host for host in hosts if host is not lost]
        assert set(on_primary(others, "postgres", "postgres", encrypted)) == {(True,)}
    assert (set(ledger.refused()), ledger.connections_lost()) == ({"503 with Retry-After"}, 0)
    query = partial(on_primary, others, "comms_api", "comms_api")
    assert_all_are_stored_once(ledger, stored_items(query))


def leader_among(hosts: list[Host]) -> bool:
    """Return whether one of these hosts is the leader."""
    return any(roles(hosts).get(host.name) == "leader" for host in hosts)
