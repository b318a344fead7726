"""The list of nodes: which are live, under which names, and how long ago lost ones were seen."""

import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.databases import querying
from support.heartbeats import wait_for_heartbeats
from support.ports import fixed_binds
from support.server import environment, running_server, start_server
from support.waiting import PATIENCE, wait_until

from comms_api.database.liveness import LOST_AFTER_SECONDS

Nodes = list[dict[str, Any]]


def nodes(management: httpx.Client, name: str | None = None) -> Nodes:
    answer = management.get("/nodes")
    assert answer.status_code == 200, answer.text
    listed: Nodes = answer.json()
    return [node for node in listed if name in {None, node["name"]}]


def test_a_node_reports_its_address_version_and_state(folder: Path, new_database: Callable[[], str]) -> None:
    with running_server(folder / "reporting", new_database(), node_name="reporting") as server:
        management = server.management()
        [node] = nodes(management)
        assert (node["name"], node["worker"], node["state"]) == ("reporting", 0, "active")
        assert (node["agent_url"], node["management_url"]) == (server.agent_url, server.management_url)
        assert node["version"]
        wait_until(lambda: abs(nodes(management)[0]["skew_seconds"]) < 0.5)
        wait_until(lambda: nodes(management)[0]["late"] == [])
        assert {"expiry", "rollouts", "signing keys"} <= set(node["duties"])
        assert node["key_ids"] == [key["kid"] for key in management.get("/.well-known/jwks.json").json()["keys"]]
        client = server.client(server.agent_url)
        assert client.get("/ready").status_code == 200
        wait_until(lambda: client.get("/") and nodes(management)[0]["requests_per_second"] > 0)
        wait_for_heartbeats(management, "reporting", 1)
        [later] = nodes(management)
        assert later["seen_at"] > node["seen_at"]
        assert later["id"] == node["id"]
        assert server.user(management, "curious", "reader").get("/nodes").status_code == 200
        assert server.user(management, "helper", "service").get("/nodes").status_code == 403


def test_a_killed_node_is_lost_and_a_stopped_one_is_not_listed(folder: Path, new_database: Callable[[], str]) -> None:
    url, home = new_database(), folder / "stays"
    with (
        running_server(home, url, node_name="stays") as server,
        running_server(home, url, node_name="killed") as killed,
        running_server(home, url, node_name="stopped") as stopped,
    ):
        management = server.management()
        wait_until(lambda: [node["state"] for node in nodes(management)] == ["active"] * 3)
        killed.stop(signal.SIGKILL)
        assert stopped.stop() == 0
        assert nodes(management, "stopped") == []
        wait_until(lambda: nodes(management, "killed")[0]["state"] == "lost")
        assert nodes(management, "killed")[0]["silent_seconds"] >= LOST_AFTER_SECONDS
        querying(url)("UPDATE nodes SET seen_at = seen_at - interval '2 hours' WHERE name = 'killed'")
        [lost] = nodes(management, "killed")
        assert lost["silent_seconds"] > 7200


def refuse(folder: Path, url: str, **settings: Any) -> tuple[int, str]:
    """Start a node that must not come up; return its exit code and its error."""
    done = subprocess.run(
        [sys.executable, "-m", "comms_api", "serve"],
        cwd=folder,
        env=environment(folder, url, **settings),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    return done.returncode, done.stderr.splitlines()[-1]


def test_a_second_live_node_with_one_name_is_refused_with_the_address_of_the_first(
    folder: Path, new_database: Callable[[], str]
) -> None:
    url = new_database()
    with running_server(folder / "first", url, node_name="same") as server:
        code, error = refuse(folder / "first", url, node_name="same")
        assert code == 1
        assert "node_name: a live node has the name 'same'" in error
        assert server.agent_url in error
        assert server.management_url in error
        assert len(nodes(server.management())) == 1


def test_a_node_with_another_secret_claims_no_name(folder: Path, new_database: Callable[[], str]) -> None:
    url = new_database()
    home, binds = folder / "known", fixed_binds()
    with running_server(home, url, node_name="known") as server:
        start_server(home, url, node_name="killed", **binds).stop(signal.SIGKILL)
        before = nodes(server.management())
        for name in ("stranger", "killed"):
            (folder / "another").mkdir(exist_ok=True)
            code, error = refuse(folder / "another", url, node_name=name, **binds)
            assert code == 1
            assert "this is not the secret that this database was set up with" in error
        after = nodes(server.management())
    assert [(node["id"], node["name"]) for node in after] == [(node["id"], node["name"]) for node in before]


def test_only_one_of_two_nodes_with_one_name_starts(folder: Path, new_database: Callable[[], str]) -> None:
    url, home = new_database(), folder / "together"
    home.mkdir()
    environ = environment(home, url, node_name="twin")
    program = [sys.executable, "-m", "comms_api", "serve"]
    log = home / "log"
    with log.open("w") as errors, ExitStack() as stack:
        both = [subprocess.Popen(program, cwd=home, env=environ, stdout=errors, stderr=errors) for _ in range(2)]
        for process in both:
            stack.callback(process.wait, timeout=PATIENCE)
            stack.callback(process.terminate)
        wait_until(lambda: any(process.poll() is not None for process in both))
        assert [process.returncode for process in both if process.poll() is not None] == [1]
        assert "a live node has the name 'twin'" in log.read_text()


def test_a_killed_node_gets_its_name_back_at_once_on_its_ports_and_soon_on_others(
    folder: Path, new_database: Callable[[], str]
) -> None:
    url, home, binds = new_database(), folder / "again", fixed_binds()
    start_server(home, url, node_name="again", **binds).stop(signal.SIGKILL)
    querying(url)("UPDATE nodes SET seen_at = seen_at + interval '1 hour'")  # a node elsewhere would be refused
    with running_server(home, url, node_name="again", **binds) as second:
        assert [node["state"] for node in nodes(second.management())] == ["active"]
        second.stop(signal.SIGKILL)
    with running_server(home, url, node_name="again") as third:
        [node] = nodes(third.management())
        assert node["agent_url"] == third.agent_url != second.agent_url


def test_the_workers_of_a_node_share_its_name_and_a_killed_one_is_replaced(
    folder: Path, new_database: Callable[[], str]
) -> None:
    url = new_database()
    with running_server(folder / "workers", url, node_name="workers", workers=3) as server:
        management = server.management()
        wait_until(lambda: len(nodes(management)) == 3)
        before = nodes(management)
        assert [(node["name"], node["worker"]) for node in before] == [("workers", number) for number in range(3)]
        children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
        subprocess.run(["kill", "-9", children[-1]], check=True)  # noqa: S607
        wait_until(lambda: {node["id"] for node in nodes(server.management())} != {node["id"] for node in before})
        active = [(number, "active") for number in range(3)]
        wait_until(lambda: [(node["worker"], node["state"]) for node in nodes(server.management())] == active)


@pytest.mark.parametrize(
    ("duty", "table"), [("announcements", "configuration_changes"), ("revocations", "revocations")]
)
def test_a_failing_duty_is_late_until_it_succeeds(
    folder: Path, new_database: Callable[[], str], duty: str, table: str
) -> None:
    url, home = new_database(), folder / f"late {duty}"
    with running_server(home, url) as server:
        management, query = server.management(), querying(url)
        query(f"ALTER TABLE {table} RENAME TO away")
        wait_until(lambda: nodes(management)[0]["late"] == [duty])
        [node] = nodes(management)
        assert node["lag_seconds"] == node["duties"][duty]["lag_seconds"] > 0
        query(f"ALTER TABLE away RENAME TO {table}")
        wait_until(lambda: nodes(management)[0]["late"] == [])
    log = (home / "log").read_text()
    assert [log.count(f"{duty}: {change}") for change in ("failed with", "all is well")] == [1, 1]


def test_a_node_serves_on_a_database_of_the_next_release(folder: Path, new_database: Callable[[], str]) -> None:
    url, home = new_database(), folder / "ahead"
    querying(url)("UPDATE alembic_version SET version_num = '9999' RETURNING 1")
    with running_server(home, url) as server:
        agent = server.enroll(server.management(), "ahead")
        assert server.log_in(agent).get("/commands?wait=0").json() == {"commands": []}
    assert "is of a newer release" in (home / "log").read_text()


def test_a_database_of_an_unknown_older_revision_is_refused(folder: Path, new_database: Callable[[], str]) -> None:
    url, home = new_database(), folder / "strange"
    home.mkdir()
    querying(url)("UPDATE alembic_version SET version_num = '0000' RETURNING 1")
    code, _ = refuse(home, url)
    assert code == 1
