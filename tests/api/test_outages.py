"""Crashes and outages: acknowledged events are kept, claimed orders are offered again, and 503 is temporary."""

import asyncio
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from signal import SIGKILL
from threading import Thread
from typing import Any

import asyncpg
import httpx
import pytest
from sqlalchemy import make_url
from support.batches import command, state, stateful, stateless
from support.databases import plain_url
from support.server import KEY, Server, environment, running_server, start_server
from support.waiting import PATIENCE, wait_until

from comms_api.database.revisions import migrations_folder
from comms_api.embedded_postgresql.cluster import Cluster, embedded_postgres

LEASE = {"lease_seconds": 1, "sweep_seconds": 0.3}


def test_an_order_claimed_before_a_kill_is_offered_again_and_ends_once(
    folder: Path, new_database: Callable[[], str]
) -> None:
    url = new_database()
    server = start_server(folder / "kill", url, **LEASE)
    management = server.management()
    agent_id = server.enroll(management, "survivor")
    management.post("/commands", json=command(agent_id))
    [offered] = server.log_in(agent_id).get("/commands?wait=60").json()["commands"]
    server.stop(SIGKILL)
    with running_server(folder / "kill", url, **LEASE) as again:
        client = again.log_in(agent_id)
        [order] = client.get("/commands?wait=60").json()["commands"]
        assert order["order_id"] == offered["order_id"]
        report = {"results": [{"order_id": order["order_id"], "result": {"code": 0}}]}
        assert client.post("/commands/results", json=report).json()["results"][0]["result"] == "updated"
        assert client.post("/commands/results", json=report).json()["results"][0]["result"] == "noop"
        stored = again.management().get(f"/orders/{order['order_id']}").json()
        assert (stored["status"], stored["attempt"]) == ("success", 2)
        assert client.get("/commands?wait=2").json() == {"commands": []}


def test_a_second_offers_database_failure_does_not_end_the_first_run(server: Server, management: httpx.Client) -> None:
    agent_id = server.enroll(management, "twice")
    client = server.log_in(agent_id)
    management.post("/commands", json=command(agent_id))
    [first] = client.get("/commands?wait=60").json()["commands"]
    [second] = client.get("/commands?wait=60").json()["commands"]
    assert first["order_id"] == second["order_id"]

    def report(code: int, message: str) -> tuple[str, str]:
        data = {"command": {"result": {"code": code, "message": message}}}
        item = state(first["order_id"], "update", data, module="command", collector="")
        [result] = client.post("/events/stateful", content=stateful(agent_id, item)).json()["results"]
        return result["result"], management.get(f"/orders/{first['order_id']}").json()["status"]

    assert report(1, "Agent's database failure") == ("noop", "sent")
    assert report(2, "at work") == ("noop", "sent")
    assert report(0, "done") == ("updated", "success")
    assert report(1, "too late") == ("noop", "success")


def test_an_order_expires_as_a_failure_that_says_when(
    server: Server, management: httpx.Client, query: Callable[..., Any]
) -> None:
    agent_id = server.enroll(management, "late")
    absent = server.enroll(management, "absent")
    ids = [
        management.post("/commands", json=command(recipient)).json()["commands"][0]["order_ids"][0]
        for recipient in (agent_id, absent)
    ]
    assert server.log_in(agent_id).get("/commands?wait=60").json()["commands"]
    query("UPDATE orders SET expires_at = now() WHERE agent_id = ANY($1::uuid[])", [agent_id, absent])

    def orders() -> list[dict[str, Any]]:
        return [management.get(f"/orders/{id_}").json() for id_ in ids]

    wait_until(lambda: [order["status"] for order in orders()] == ["failure", "failure"])
    assert [order["result"]["message"][:23] for order in orders()] == [
        "expired after delivery,",
        "expired before delivery",
    ]


@pytest.fixture
def cluster(scratch: Path) -> Iterator[Cluster]:
    """A PostgreSQL that a test may stop."""
    with embedded_postgres(scratch / "outage", durable=False) as running:
        yield running


def test_requests_without_postgresql_are_503_at_once_until_it_is_back(folder: Path, cluster: Cluster) -> None:
    with running_server(folder / "outage", cluster.url, database_timeout_seconds=3600) as server:
        management = server.management()
        agent_id = server.enroll(management, "patient")
        client = server.log_in(agent_id)
        calls: list[Callable[[], httpx.Response]] = [
            lambda: client.post("/events/stateless", content=stateless(agent_id, {"n": 1})),
            lambda: client.post("/events/stateful", content=stateful(agent_id, state("a", "update", {"n": 1}))),
            lambda: client.get("/commands?wait=0.1"),
            lambda: client.post(
                "/commands/results", json={"results": [{"order_id": str(agent_id), "result": {"code": 0}}]}
            ),
            lambda: client.post("/login", json={"uuid": str(agent_id), "key": KEY}),
            lambda: management.get("/agents"),
            lambda: management.post("/commands", json=command(agent_id)),
        ]
        for mode in ("fast", "immediate"):
            cluster.stop(mode)
            for call in calls:
                started = time.monotonic()
                answer = call()
                # Statements and waits for a connection would last up to an hour.
                assert (answer.status_code, time.monotonic() - started < PATIENCE) == (503, True), answer.text
                assert int(answer.headers["retry-after"]) >= 1
            cluster.bring_up()
            wait_until(lambda: all(call().status_code != 503 for call in calls))
            assert [call().status_code for call in calls] == [204, 200, 200, 200, 200, 200, 201]


def test_an_export_that_an_outage_cuts_off_is_one_line_in_the_log(folder: Path, cluster: Cluster) -> None:
    with running_server(folder / "outage", cluster.url) as server:  # the database knows the secret in this folder
        management = server.management()
        filling = "INSERT INTO audit (id, actor, operation, subject, key, after)"
        filling += " SELECT uuid7(), 'a', 'insert', 'groups', n::text, json_build_object('b', repeat('c', 4000))"
        asyncio.run(execute(cluster.url, f"{filling} FROM generate_series(1, 20000) AS n"))
        with management.stream("GET", "/audit/export") as export:
            pieces = export.iter_raw()
            next(pieces)  # the server reads the trail no faster than its client does
            cluster.stop("immediate")
            with pytest.raises(httpx.RemoteProtocolError):
                list(pieces)
        cluster.bring_up()
    log = (server.folder / "log").read_text()
    assert log.count("the answer to GET /audit/export was cut off: the database is away") == 1
    assert "Traceback" not in log


async def execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(plain_url(make_url(url)))
    await connection.execute(statement)
    await connection.close()


def test_a_statement_that_takes_too_long_is_not_called_an_outage(folder: Path, new_database: Callable[[], str]) -> None:
    url = new_database()
    with running_server(folder / "slow", url, database_timeout_seconds=5) as server:
        agent_id = server.enroll(server.management(), "waits")
        agent = server.log_in(agent_id)

        async def change_while_it_is_locked() -> httpx.Response:
            connection = await asyncpg.connect(plain_url(make_url(url)))
            await connection.fetch("SELECT pg_advisory_lock(hashtextextended($1, 0))", str(agent_id))
            body = stateful(agent_id, state("1"))
            answer = await asyncio.to_thread(agent.post, "/events/stateful", content=body)
            await connection.close()
            return answer

        answer = asyncio.run(change_while_it_is_locked())
    assert (answer.status_code, answer.json()["detail"]) == (503, "The database took too long; try again later.")


def stored_numbers(management: httpx.Client) -> list[int]:
    """Return the numbers of all events."""
    stored: list[int] = []
    after = None
    while after != "":
        page = management.get("/events", params={"limit": 1000, **({"after": after} if after else {})}).json()
        stored += [event["event"]["n"] for event in page["items"]]
        after = page["next"] or ""
    return stored


def kill_postgresql(data_dir: Path, *, spares_children: bool) -> None:
    """Kill the embedded server of a data directory as the kernel does; surviving children then exit."""
    postmaster = int((data_dir / "postgres/cluster/postmaster.pid").read_text().split()[0])
    children = [] if spares_children else Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
    for pid in (postmaster, *map(int, children)):
        os.kill(pid, SIGKILL)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_node_restarts_its_killed_postgresql_and_keeps_acknowledged_events(folder: Path, workers: int) -> None:
    home = folder / f"own{workers}"
    with running_server(home, None, workers=workers) as server:
        management = server.management()
        agent_id = server.enroll(management, "loyal")
        client = server.log_in(agent_id)
        acknowledged: list[int] = []
        numbers = count()

        def is_acknowledged() -> bool:
            number = next(numbers)
            answer = client.post("/events/stateless", content=stateless(agent_id, {"n": number}))
            assert answer.status_code in {204, 503}, answer.text
            if answer.status_code == 204:
                acknowledged.append(number)
            return answer.status_code == 204

        for times, spares_children in enumerate((False, True), start=1):
            assert all(is_acknowledged() for _ in range(20))
            kill_postgresql(home / "data", spares_children=spares_children)
            wait_until(lambda: not is_acknowledged())
            wait_until(is_acknowledged)
            wait_until(lambda times=times: (home / "log").read_text().count("had stopped and was restarted") == times)
        assert client.get("/commands?wait=0").status_code == 200
        assert set(acknowledged) <= set(stored_numbers(management))
    assert not (home / "data/postgres/cluster/postmaster.pid").exists()


def test_sigterm_answers_held_polls_and_keeps_every_acknowledged_event(
    folder: Path, new_database: Callable[[], str]
) -> None:
    url = new_database()
    server = start_server(folder / "drain", url, drain_seconds=3600, poll_wait_seconds=3600)
    management = server.management()
    agent_id, idle_id = (server.enroll(management, name) for name in ("busy", "idle"))
    client, idle = server.log_in(agent_id), server.log_in(idle_id)
    acknowledged: list[int] = []
    polled: list[Any] = []

    def send() -> None:
        for number in range(100_000):
            try:
                answer = client.post("/events/stateless", content=stateless(agent_id, {"n": number}))
            except httpx.HTTPError:
                return
            assert answer.status_code == 204
            acknowledged.append(number)

    threads = [Thread(target=send), Thread(target=lambda: polled.append(idle.get("/commands?wait=3600").json()))]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(acknowledged) > 10 and management.get("/nodes").json()[0]["polls"] == 1)
    server.process.terminate()
    assert server.process.wait(timeout=PATIENCE) == 0  # long before requests under way would be cut off
    for thread in threads:
        thread.join(timeout=PATIENCE)
    assert polled == [{"commands": []}]
    server.stop()
    with running_server(folder / "drain", url) as again:
        stored = stored_numbers(again.management())
    assert set(acknowledged) <= set(stored)


def test_nodes_that_start_together_migrate_once(folder: Path, postgres: Any, new_database: Callable[[], str]) -> None:
    del postgres
    url = new_database()
    home = folder / "together"
    home.mkdir()
    env = environment(home, url)
    subprocess.run(
        [sys.executable, "-m", "alembic", "-c", str(Path(__file__).parents[2] / "alembic.ini"), "downgrade", "base"],
        env=env, cwd=home, check=True, capture_output=True,
    )  # fmt: skip
    nodes: list[Server] = []
    starters = [Thread(target=lambda: nodes.append(start_server(home, url, workers=1))) for _ in range(5)]
    for starter in starters:
        starter.start()
    for starter in starters:
        starter.join()
    try:
        assert len({node.agent_port for node in nodes}) == 5
        newest = max(path.name for path in (migrations_folder() / "versions").glob("0*.py"))
        upgrades = re.findall(
            r"the schema was upgraded to revision (\d+) \(it was at none\)", (home / "log").read_text()
        )
        assert [newest.startswith(revision) for revision in upgrades] == [True]
        agent_id = nodes[0].enroll(nodes[0].management(), "anywhere")
        token = nodes[1].token(agent_id)
        assert [node.client(node.agent_url, token).get("/commands?wait=0").status_code for node in nodes] == [200] * 5
    finally:
        assert [node.stop() for node in nodes] == [0] * 5


def test_workers_share_a_port_and_one_that_dies_is_replaced(folder: Path, new_database: Callable[[], str]) -> None:
    with running_server(folder / "workers", new_database(), workers=2) as server:
        management = server.management()
        agent_id = server.enroll(management, "worker")
        token = server.token(agent_id)
        children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
        first = children.read_text().split()
        assert len(first) == 2
        subprocess.run(["/bin/kill", "-9", first[0]], check=True)
        wait_until(lambda: set(children.read_text().split()) - set(first))
        time.sleep(1)
        for _ in range(10):
            assert server.client(server.agent_url, token).get("/commands?wait=0").status_code == 200
