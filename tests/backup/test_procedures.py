"""The procedures of docs/operations/backup.md: a restored server serves its agents unchanged."""

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from signal import SIGKILL
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy import URL, make_url
from support.backups import failing, succeeding
from support.batches import command, stateless
from support.databases import querying, run_sql
from support.fleet import Fleet, Pace, events, states
from support.ledger import Ledger, stored_items
from support.ports import fixed_binds
from support.replication import kill_postgres
from support.server import KEY, Server, environment, running_server, start_server
from support.waiting import wait_until

from comms_api.embedded_postgresql.cluster import embedded_postgres

PACE = Pace(pause_seconds=0.05, retry_seconds=0.1, poll_seconds=1)
AGENTS = 5


@pytest.fixture
def empty_database(postgres: URL) -> Iterator[str]:
    """The URL of a database without tables."""
    name = f"comms_api_test_{uuid.uuid4().hex[:12]}"
    run_sql(postgres, f"CREATE DATABASE {name}")
    yield postgres.set(database=name).render_as_string(hide_password=False)
    run_sql(postgres, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=["embedded", "separate"])
def databases(
    request: pytest.FixtureRequest, new_database: Callable[[], str], empty_database: str
) -> tuple[str | None, str | None]:
    """The `database_url` of a server, and that of the server on which it is restored."""
    return (None, None) if request.param == "embedded" else (new_database(), empty_database)


@contextmanager
def queries(url: str | None, folder: Path) -> Iterator[Callable[..., list[Any]]]:
    """Run statements on the database of a node in a folder."""
    if url is not None:
        yield querying(url)
        return
    with embedded_postgres(folder / "data") as cluster:
        yield querying(cluster.url)


def assert_stored(ledger: Ledger, query: Callable[..., list[Any]], backed_up_at: float, restored_at: float) -> None:
    """Check the items that were acknowledged before the backup began, or by the restored server."""
    for kind, items in stored_items(query).items():
        acknowledged = {
            item
            for tally in ledger.of(kind)
            for item, at in tally.acknowledged.items()
            if at < backed_up_at or at > restored_at
        }
        assert acknowledged, kind
        assert acknowledged <= items.keys(), kind
        assert max(items.values()) == 1, kind


def test_agents_continue_on_a_server_that_was_backed_up_under_load_and_killed(
    folder: Path, databases: tuple[str | None, str | None]
) -> None:
    old_url, new_url = databases
    old, new, file = folder / f"old {old_url is None}", folder / f"new {old_url is None}", folder / f"{old_url is None}"
    settings: dict[str, Any] = {"lease_seconds": 2, "sweep_seconds": 0.5, **fixed_binds()}
    with ExitStack() as stack:
        first = start_server(old, old_url, **settings)
        stack.callback(lambda: kill_postgres(old / "data" / "postgres" / "cluster"))
        stack.callback(lambda: first.stop(SIGKILL))
        management = first.management()
        fleet = Fleet(first.tls, first.agent_port, PACE)
        assert management.post("/groups", json={"name": "busy"}).status_code == 201
        agents = [first.enroll(management, f"busy {number}", ("busy",)) for number in range(AGENTS)]
        for agent_id in agents:
            fleet.send(agent_id, events, states)
            fleet.poll(agent_id)
        fleet.submit(management, first.management_port, command("busy", "group"), 0.5)
        absent = first.enroll(management, "absent")
        held = management.post("/commands", json=command(absent)).json()["commands"][0]["order_ids"][0]
        position = management.get("/events/tail").json()["next"]
        with fleet.running():
            wait_until(lambda: fleet.ledger.is_answered_since(0))
            backed_up_at = time.monotonic()
            succeeding(environment(old, old_url, **settings), old, "backup", file)
            wait_until(lambda: fleet.ledger.is_answered_since(time.monotonic() - 1))
            first.process.send_signal(SIGKILL)
            first.process.wait()
            kill_postgres(old / "data" / "postgres" / "cluster")
            succeeding(environment(new, new_url, **settings), new, "restore", file)
            restored_at = time.monotonic()
            with running_server(new, new_url, **settings) as second:
                wait_until(lambda: fleet.ledger.is_answered_since(restored_at), says=lambda: fleet.ledger.report(0))
                offered = log_in(second, absent).get("/commands").json()["commands"]
                assert [order["order_id"] for order in offered] == [held]
                assert_a_follower_continues(second, management, position, is_same_cluster=new_url is not None)
                assert [node["state"] for node in management.get("/nodes").json()] == ["active"]
                fleet.stop_sending()
                with queries(new_url, new) as query:
                    assert_stored(fleet.ledger, query, backed_up_at, restored_at)
        assert not [reason for reason in fleet.ledger.refused() if reason.startswith("401")]


def log_in(server: Server, agent_id: UUID) -> httpx.Client:
    """Log an agent in with its key."""
    client = server.client(server.agent_url)
    answer = client.post("/login", json={"uuid": str(agent_id), "key": KEY})
    assert answer.status_code == 200, answer.text
    client.headers["Authorization"] = f"Bearer {answer.json()['token']}"
    return client


def assert_a_follower_continues(
    server: Server, management: httpx.Client, position: str, *, is_same_cluster: bool
) -> None:
    """Check that a position of before the backup is valid in the same cluster, and refused with advice elsewhere."""
    agent_id = server.enroll(server.management(), "followed")
    batch = stateless(agent_id, {"key": "followed"})
    log_in(server, agent_id).post("/events/stateless", content=batch).raise_for_status()
    query = {"agent_id": str(agent_id)}
    answer = management.get("/events/tail", params={"after": position, **query, "wait": 30})
    if not is_same_cluster:
        assert answer.status_code == 409
        assert "begin again with `since`" in answer.json()["detail"]
        answer = management.get("/events/tail", params={"since": "2020-01-01T00:00:00Z", **query, "wait": 30})
    while not answer.json()["items"]:
        answer = management.get("/events/tail", params={"after": answer.json()["next"], **query, "wait": 30})
    assert [item["event"] for item in answer.json()["items"]] == [{"key": "followed"}]


def test_an_embedded_database_moves_to_a_separate_server(folder: Path, empty_database: str) -> None:
    home, file = folder / "moving", folder / "moving.zip"
    with running_server(home, None) as embedded:
        agent_id = embedded.enroll(embedded.management(), "moved")
    before = environment(home, None)
    succeeding(before, home, "backup", file)
    after = environment(home, empty_database)
    output = succeeding(after, home, "restore", file)
    assert "restored: the database\nthe database is in another PostgreSQL cluster" in output
    with running_server(home, empty_database) as separate:
        assert log_in(separate, agent_id).get("/commands?wait=0").json() == {"commands": []}


def test_an_embedded_database_of_another_major_version_is_upgraded_as_the_error_says(folder: Path) -> None:
    home, file = folder / "major", folder / "major.zip"
    with running_server(home, None) as server:
        agent_id = server.enroll(server.management(), "upgraded")
    variables = environment(home, None)
    succeeding(variables, home, "backup", file)
    cluster = home / "data" / "postgres" / "cluster"
    (cluster / "PG_VERSION").write_text("17\n")  # as if the package had been upgraded since the backup
    assert f"rename {cluster} to cluster.17, and run `comms-api restore" in failing(variables, home, "migrate")
    cluster.rename(cluster.with_name("cluster.17"))
    succeeding(variables, home, "restore", file)
    with running_server(home, None) as server:
        log_in(server, agent_id)


def test_an_older_backup_is_upgraded_after_its_restore(
    folder: Path, new_database: Callable[[], str], empty_database: str
) -> None:
    home, file = folder / "older", folder / "older.zip"
    url = new_database()
    with running_server(home, url) as server:
        agent_id = server.enroll(server.management(), "old")
    old = environment(home, url)
    succeeding(old, home, "migrate", "--to", "0033")
    succeeding(old, home, "backup", file)
    new = environment(folder / "upgraded", empty_database)
    output = succeeding(new, folder, "restore", file)
    assert "`comms-api serve` or `comms-api migrate` upgrades the schema to" in output
    assert "restored: " + new["COMMS_API_CERTS_DIR"] in output
    succeeding(new, folder, "migrate")
    assert succeeding(new, folder, "migrate", "--check") == "the schema is current\n"
    with running_server(folder / "upgraded", empty_database) as upgraded:
        log_in(upgraded, agent_id)


def test_the_settings_of_a_backup_start_a_node(folder: Path, new_database: Callable[[], str]) -> None:
    home, file = folder / "set", folder / "set.zip"
    url = new_database()
    with running_server(home, url, node_name='a"\\ü'.replace('"\\ü', ".b"), webhook_networks="10.0.0.0/8") as server:
        assert server.management()
    variables = environment(home, url, node_name="a.b", webhook_networks="10.0.0.0/8", access_log="true")
    succeeding(variables, home, "backup", file)
    settings = folder / "settings.toml"
    settings.write_text(succeeding(variables, home, "restore", file, "--settings"))
    for line in ('node_name = "a.b"\n', 'webhook_networks = ["10.0.0.0/8"]\n', "access_log = true\n"):
        assert line in settings.read_text()
    without = {name: value for name, value in variables.items() if not name.startswith("COMMS_API_")}
    assert make_url(url).database in settings.read_text()
    assert succeeding(without, folder, "migrate", "--check", "--config", settings) == "the schema is current\n"
