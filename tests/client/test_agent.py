"""The reference agent with a real server: it enrolls once, executes an order once, and loses nothing in a crash."""

import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import msgspec
import pytest
from support.agents import Agent
from support.batches import command
from support.databases import querying
from support.events import stored_texts
from support.server import Server, running_server
from support.waiting import PATIENCE, wait_until

from comms_api.client.spool.model import Identity
from comms_api.client.spool.spool import Spool

Query = Callable[..., list[Any]]


@pytest.fixture(scope="module")
def server(folder: Path, database_url: str) -> Iterator[Server]:
    """A node whose leases outlast the tests: it offers an order only once, however slow the agent is."""
    with running_server(folder, database_url, lease_seconds=3600, sweep_seconds=0.5) as running:
        yield running


@pytest.fixture
def agent(server: Server, folder: Path) -> Iterator[Agent]:
    started = Agent(server, folder, f"agent-{uuid4()}", "--no-inventory")
    yield started
    started.stop()


def find_id(management: httpx.Client, agent: Agent) -> str:
    wait_until(lambda: management.get("/agents", params={"name": agent.folder.name}).json()["items"])
    wait_until(lambda: agent.statistics().get("logins"))
    found: str = management.get("/agents", params={"name": agent.folder.name}).json()["items"][0]["id"]
    return found


def test_every_line_arrives_once_across_kills_of_the_agent(
    management: httpx.Client, agent: Agent, query: Query
) -> None:
    agent_id = find_id(management, agent)
    for number in range(300):
        with agent.log_file.open("a") as file:
            file.write(f"line {number}\n")
        if number in {100, 200}:
            agent.stop(signal.SIGKILL)
            agent.start()
        time.sleep(0.002)
    wait_until(lambda: len(stored_texts(query, agent_id)) >= 300)
    assert stored_texts(query, agent_id) == [f"line {number}" for number in range(300)]
    assert len(management.get("/agents", params={"name": agent.folder.name}).json()["items"]) == 1


ORDERS: list[tuple[str, Any, str]] = [
    ("ping", {"n": 1}, "success"),
    ("ping", [1], "success"),
    ("set-group", {"groups": []}, "success"),
    ("fetch-config", {}, "success"),
    ("no-such-action", {}, "failure"),
    ("ping", {"again": True}, "success"),
]


def test_orders_are_executed_and_reported(management: httpx.Client, agent: Agent) -> None:
    agent_id = find_id(management, agent)
    for action, args, status in ORDERS:
        body = command(agent_id) | {"action": {"name": action, "args": args}}
        order_id = management.post("/commands", json=body).json()["commands"][0]["order_ids"][0]
        url = f"/orders/{order_id}"
        wait_until(lambda url=url: management.get(url).json()["status"] in {"success", "failure"})
        order = management.get(url).json()
        assert (order["status"], order["attempt"]) == (status, 1)
    wait_until(lambda: agent.statistics()["results_reported"] == len(ORDERS))


def test_the_first_inventory_is_sent_completely_and_later_ones_as_differences(
    server: Server, management: httpx.Client, folder: Path, query: Query
) -> None:
    agent = Agent(server, folder, "inventory", "--once")
    assert agent.process.wait(timeout=PATIENCE) == 0
    first = agent.statistics()
    agent_id = find_id(management, agent)
    stored = query("SELECT count(*) FROM states WHERE agent_id = $1", agent_id)[0][0]
    assert first["states_sent"] == first["states_collected"] == stored > 10
    agent.start()
    assert agent.process.wait(timeout=PATIENCE) == 0
    assert agent.statistics()["states_sent"] - first["states_sent"] < stored / 2
    assert agent.statistics()["states_refused"] == 0


def test_without_a_server_the_spool_stays_bounded_and_sigterm_ends_the_agent(
    management: httpx.Client, agent: Agent
) -> None:
    find_id(management, agent)
    agent.stop()
    agent.command[agent.command.index("--url") + 1] = "https://127.0.0.1:1"
    agent.command += ["--spool-bytes", "200000"]
    agent.start()
    with agent.log_file.open("a") as file:
        file.writelines(f"line {number}\n" for number in range(6_000))
    wait_until(lambda: agent.statistics()["events_collected"] == 6_000)
    assert agent.statistics()["events_dropped"] > 3_000
    assert agent.stop() == 0
    agent.command.append("--once")
    log = agent.folder / "log"
    before = log.read_text().count("ConnectError")
    agent.start()
    wait_until(lambda: log.read_text().count("ConnectError") > before)
    assert agent.stop() == 0


def test_a_backlog_larger_than_the_spool_is_sent_without_loss(management: httpx.Client, agent: Agent) -> None:
    find_id(management, agent)
    agent.stop()
    with agent.log_file.open("a") as file:
        file.writelines(f"{number}\n" for number in range(10_000))
    agent.command += ["--spool-bytes", "50000"]
    agent.start()
    wait_until(lambda: agent.statistics()["events_sent"] == 10_000)
    assert agent.statistics()["events_dropped"] == 0


def test_all_events_reach_a_server_that_accepts_only_small_batches(
    folder: Path, new_database: Callable[[], str]
) -> None:
    url = new_database()
    with running_server(folder / "small", url, body_bytes_maximum=2_000) as server:
        agent = Agent(server, folder, "small-agent", "--no-inventory")
        try:
            with agent.log_file.open("a") as file:
                file.writelines([*(f"line {number}\n" for number in range(50)), "x" * 3_000, "\n", "last\n"])
            wait_until(lambda: agent.statistics().get("events_collected") == 52)
            wait_until(lambda: agent.statistics()["events_sent"] + agent.statistics()["events_dropped"] == 52)
            assert agent.statistics()["events_dropped"] == 1
        finally:
            agent.stop()
    assert stored_texts(querying(url)) == [*(f"line {number}" for number in range(50)), "last"]


def test_the_log_says_that_the_agent_is_enrolled_and_connected(management: httpx.Client, agent: Agent) -> None:
    agent_id = find_id(management, agent)
    log = agent.folder / "log"
    assert f"enrolled as {agent.folder.name!r} with the id {agent_id}" in log.read_text()
    wait_until(lambda: f"connected to {agent.command[5]} as the agent {agent_id}" in log.read_text())


def test_circular_links_block_neither_the_collection_nor_sigterm(
    server: Server, folder: Path, management: httpx.Client
) -> None:
    logs = folder / "logs"
    logs.mkdir()
    for name in ("a", "b"):
        (logs / name).symlink_to(".")
    (logs / "x.log").write_text("matches the pattern\n")
    agent = Agent(server, folder, "circles", "--no-inventory", "--log-file", f"{logs}/**/*.log")
    find_id(management, agent)
    with agent.log_file.open("a") as file:
        file.write("in the other file\n")
    wait_until(lambda: agent.statistics()["events_sent"] == 2)
    assert agent.stop() == 0


def test_sigterm_ends_the_agent_while_it_searches_for_files(management: httpx.Client, agent: Agent) -> None:
    find_id(management, agent)
    agent.stop()
    log = agent.folder / "log"
    before = log.read_text().count("connected to")
    agent.command += ["--log-file", "/proc/**/nothing"]  # a large tree that changes all the time
    agent.start()
    wait_until(lambda: log.read_text().count("connected to") > before)
    assert agent.stop() == 0


def test_two_agents_cannot_share_a_folder(agent: Agent, management: httpx.Client) -> None:
    find_id(management, agent)
    done = subprocess.run(agent.command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == f"comms-api: another agent runs in {agent.folder / 'data'}\n"


def test_a_url_without_tls_is_a_usage_error(agent: Agent) -> None:
    done = subprocess.run([*agent.command, "--url", "http://h:1"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "https" in done.stderr.splitlines()[-1]


def test_a_refused_enrollment_is_a_one_line_error_with_exit_code_1(server: Server, folder: Path) -> None:
    agent = Agent(server, folder, "refused")
    agent.stop()
    (agent.folder / "wrong").write_text("wrong password")
    changed = ["--data-dir", str(agent.folder / "other"), "--password-file", str(agent.folder / "wrong")]
    done = subprocess.run([*agent.command, *changed], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "comms-api: cannot enroll: the user 'admin' is refused with status 401\n"


def test_an_agent_that_crashed_during_its_enrollment_keeps_its_id(management: httpx.Client, agent: Agent) -> None:
    agent_id = find_id(management, agent)
    agent.stop(signal.SIGKILL)
    spool = Spool(agent.folder / "data" / "spool.sqlite", 2**20)
    identity = spool.find_identity()
    assert identity is not None
    spool.remember_identity(msgspec.structs.replace(identity, is_enrolled=False))
    spool.close()
    agent.command.append("--once")
    agent.start()
    assert agent.process.wait(timeout=PATIENCE) == 0
    assert find_id(management, agent) == agent_id == str(identity.id)


def test_a_deleted_agent_exits_with_an_error(management: httpx.Client, agent: Agent) -> None:
    management.delete(f"/agents/{find_id(management, agent)}")
    assert agent.process.wait(timeout=PATIENCE) == 1
    assert "Agent does not exist" in (agent.folder / "log").read_text().splitlines()[-1]


def test_a_disk_that_is_full_for_a_moment_is_logged_once_and_loses_nothing(
    management: httpx.Client, agent: Agent
) -> None:
    find_id(management, agent)
    log = agent.folder / "log"
    usual = resource.prlimit(agent.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(agent.process.pid, resource.RLIMIT_FSIZE, (2**19, usual[1]))
    with agent.log_file.open("a") as file:
        file.writelines(f"line {number}\n" for number in range(20_000))
    wait_until(lambda: "following log files failed" in log.read_text())
    resource.prlimit(agent.process.pid, resource.RLIMIT_FSIZE, usual)
    wait_until(lambda: agent.statistics()["events_sent"] == 20_000)
    assert agent.process.poll() is None
    wait_until(lambda: "following log files succeeds again" in log.read_text())
    assert log.read_text().count("following log files failed") == 1


def key_of(agent: Agent) -> tuple[str, str]:
    """Return the agent's key and its next key."""
    identity = edit_identity(agent)
    return identity.key, identity.next_key


def edit_identity(agent: Agent, **changes: str) -> Identity:
    spool = Spool(agent.folder / "data" / "spool.sqlite", 2**20)
    try:
        identity = spool.find_identity()
        assert identity is not None
        if changes:
            identity = msgspec.structs.replace(identity, **changes)
            spool.remember_identity(identity)
        return identity
    finally:
        spool.close()


def perform(management: httpx.Client, agent_id: str, action: str) -> str:
    """Send a command to an agent and return the final status of its order."""
    body = command(agent_id, action=action)
    url = f"/orders/{management.post('/commands', json=body).json()['commands'][0]['order_ids'][0]}"
    wait_until(lambda: management.get(url).json()["status"] in {"success", "failure"})
    status: str = management.get(url).json()["status"]
    return status


def test_an_agent_rotates_its_key_on_an_order_and_continues(
    server: Server, management: httpx.Client, agent: Agent
) -> None:
    agent_id = find_id(management, agent)
    old, _ = key_of(agent)
    assert perform(management, agent_id, "rotate-key") == "success"
    new, next_key = key_of(agent)
    assert (new != old, next_key) == (True, "")
    login = server.client(server.agent_url).post("/login", json={"uuid": agent_id, "key": old})
    assert login.json()["message"] == "Invalid key"
    assert perform(management, agent_id, "ping") == "success"
    agent.stop(signal.SIGKILL)
    agent.start()
    assert perform(management, agent_id, "ping") == "success"


@pytest.mark.parametrize("is_submitted", [True, False])
def test_an_agent_recovers_from_an_interrupted_rotation(
    server: Server, management: httpx.Client, agent: Agent, *, is_submitted: bool
) -> None:
    agent_id = find_id(management, agent)
    agent.stop(signal.SIGKILL)
    current, next_key = key_of(agent)[0], "next-0123456789abcdefghijklmnopq"
    edit_identity(agent, next_key=next_key)
    if is_submitted:
        login = server.client(server.agent_url).post("/login", json={"uuid": agent_id, "key": current})
        order = management.post("/commands", json=command(agent_id, action="rotate-key")).json()["commands"][0]
        submission = {"order_id": order["order_ids"][0], "current_key": current, "next_key": next_key}
        session = server.client(server.agent_url, login.json()["token"])
        assert session.put("/key", json=submission).status_code == 204
    agent.start()
    assert perform(management, agent_id, "ping") == "success"
    login = server.client(server.agent_url).post("/login", json={"uuid": agent_id, "key": current})
    assert (login.status_code == 200) is not is_submitted


def test_an_agent_whose_key_was_replaced_continues_with_the_new_key(management: httpx.Client, agent: Agent) -> None:
    agent_id = find_id(management, agent)
    new_key = management.post(f"/agents/{agent_id}/key", json={}).json()["key"]
    assert agent.process.wait(timeout=PATIENCE) == 1
    assert "--key-file" in (agent.folder / "log").read_text().splitlines()[-1]
    key_file = agent.folder / "key"
    key_file.write_text(f"{new_key}\n")
    agent.command += ["--key-file", str(key_file)]
    agent.start()
    assert perform(management, agent_id, "rotate-key") == "success"
    agent.stop()
    agent.start()  # the agent has used the key in the file before, and has rotated it since
    assert perform(management, agent_id, "ping") == "success"


def test_a_key_file_for_an_agent_that_is_not_enrolled_is_a_one_line_error(agent: Agent, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("0123456789abcdefghijklmnopqrstuv")
    arguments = [*agent.command, "--data-dir", str(tmp_path / "data"), "--key-file", str(tmp_path / "key")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "--key-file" in done.stderr


def test_a_token_is_renewed_before_it_expires(folder: Path, new_database: Callable[[], str]) -> None:
    with running_server(folder / "renewal", new_database(), token_lifetime_seconds=5) as server:
        agent = Agent(server, folder, "renewal-agent", "--no-inventory")
        try:
            lines = count(1)

            def logins() -> int:
                with agent.log_file.open("a") as file:
                    file.write(f"{next(lines)}\n")
                return agent.statistics().get("logins", 0)

            wait_until(lambda: logins() >= 3)
            written = next(lines) - 1
            wait_until(lambda: agent.statistics().get("events_sent") == written)
            assert agent.statistics()["retries"] == 0
        finally:
            agent.stop()
