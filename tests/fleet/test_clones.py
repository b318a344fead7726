"""Two processes with one identity are found by their nonces, and the younger is reported, refused or enrolled again."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from support.databases import querying
from support.server import KEY, Server, running_server
from support.waiting import PATIENCE, wait_until

A, B, C = ("a" * 32, "b" * 32, "c" * 32)


def log_in(server: Server, agent_id: UUID, instance: str | None) -> httpx.Response:
    headers = {} if instance is None else {"Agent-Instance": instance}
    with httpx.Client(base_url=server.agent_url, verify=server.tls, headers=headers, timeout=PATIENCE) as client:
        return client.post("/login", json={"uuid": str(agent_id), "key": KEY})


class Clones:
    """Processes of one agent that log in."""

    def __init__(self, server: Server, management: httpx.Client, url: str, name: str) -> None:
        self._server, self._management, self._query = server, management, querying(url)
        self.agent_id = server.enroll(management, name)

    def log_in(self, *instances: str | None) -> int:
        """Log in with each nonce, and wait until each login was stored; return the last status."""
        status = 0
        for instance in instances:
            status = log_in(self._server, self.agent_id, instance).status_code
            if status == 200 and instance is not None:
                wait_until(lambda instance=instance: self._instances()[-1:] == [instance])
        return status

    def _instances(self) -> list[str]:
        [[instances]] = self._query("SELECT instances FROM agents WHERE id = $1", self.agent_id)
        found: list[str] = instances
        return found

    def listed(self, clones: str) -> bool:
        items = self._management.get("/agents", params={"clones": clones}).json()["items"]
        return str(self.agent_id) in {agent["id"] for agent in items}

    def events(self) -> list[dict[str, Any]]:
        query = {"agent_id": str(self.agent_id), "kind": "cloned"}
        items: list[dict[str, Any]] = self._management.get("/fleet/events", params=query).json()["items"]
        return items


def test_restarts_are_no_clones_and_alternating_processes_are(
    server: Server, management: httpx.Client, database_url: str
) -> None:
    clones = Clones(server, management, database_url, "cloned")
    clones.log_in(A, A, B, None, B, C, A)
    assert (clones.listed("proved"), clones.events()) == (False, [])
    clones.log_in(C)
    assert not clones.listed("proved")  # C, A, C
    assert clones.log_in(A) == 200
    wait_until(lambda: clones.listed("proved"))
    assert clones.listed("suspected")
    wait_until(clones.events)
    assert clones.log_in(C, A, C) == 200
    assert [event["details"]["younger"] for event in clones.events()] == [A]


def test_an_agent_that_invents_nonces_does_not_fill_the_history(
    server: Server, management: httpx.Client, database_url: str
) -> None:
    clones = Clones(server, management, database_url, "inventive")
    for pair in ("01", "23", "45"):
        clones.log_in(*(digit * 32 for digit in pair + pair))
    wait_until(clones.events)
    assert [event["details"]["younger"] for event in clones.events()] == ["1" * 32]


def test_a_nonce_that_is_none_is_ignored(server: Server, management: httpx.Client, database_url: str) -> None:
    clones = Clones(server, management, database_url, "nonsense")
    for instance in ("x", "A" * 32, "a" * 33, "a" * 5_000, f"{A}; {B}", ""):
        assert log_in(server, clones.agent_id, instance).status_code == 200
    [[instances]] = querying(database_url)("SELECT instances FROM agents WHERE id = $1", clones.agent_id)
    assert instances == []


def test_alternating_addresses_alone_are_only_suspected(
    server: Server, management: httpx.Client, database_url: str
) -> None:
    clones = Clones(server, management, database_url, "dual stack")
    querying(database_url)(
        "UPDATE agents SET displaced_poll_at = now(), displaced_poll_address = '192.0.2.1', poll_address = '192.0.2.2'"
        " WHERE id = $1",
        clones.agent_id,
    )
    assert (clones.listed("suspected"), clones.listed("proved")) == (True, False)


def test_the_younger_process_is_refused_until_the_older_is_silent(
    folder: Path, new_database: Callable[[], str]
) -> None:
    url = new_database()
    with running_server(folder / "refuse", url, clones="refuse") as server:
        clones = Clones(server, server.management(), url, "refused")
        clones.log_in(A, B, A, B)
        assert (clones.log_in(B), clones.log_in(A)) == (403, 200)
        answer = log_in(server, clones.agent_id, B).json()
        assert answer["code"] != 2730
        assert answer["message"] not in {"Invalid key", "Agent does not exist"}
        querying(url)("UPDATE agents SET last_seen_at = now() - interval '1 day'")
        assert clones.log_in(B) == 200


@contextmanager
def agent(server: Server, data_dir: Path, token: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a reference agent for the block."""
    words = ["agent", "--no-proxy", "--url", server.agent_url, "--ca", str(server.folder / "certs" / "ca.pem")]
    words += ["--data-dir", str(data_dir), "--name", "copied", "--enrollment-token-file", str(token)]
    words += ["--no-inventory", "--wait-seconds", "1"]
    with (data_dir.parent / f"{data_dir.name}.log").open("ab") as log:
        process = subprocess.Popen([sys.executable, "-m", "comms_api", *words], stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(PATIENCE)


def test_the_younger_of_two_reference_agents_enrolls_again(folder: Path, new_database: Callable[[], str]) -> None:
    url, home = new_database(), folder / "reenroll"
    with running_server(home, url, clones="reenroll", token_lifetime_seconds=5) as server:
        made = server.management().post("/enrollment-tokens", json={"groups": [], "expires_in": 3600}).json()
        (home / "token").write_text(made["token"])

        def names(**query: str) -> list[str]:
            # A new login for each: the tokens of users expire as soon as those of agents.
            return sorted(one["name"] for one in server.management().get("/agents", params=query).json()["items"])

        with agent(server, home / "original", home / "token"):
            wait_until(lambda: names(status="active") == ["copied"])
            shutil.copytree(home / "original", home / "copy")
            with agent(server, home / "copy", home / "token"):
                wait_until(lambda: len(names()) == 2, says=lambda: str((home / "copy.log").read_text()))
                assert names()[1].startswith("copied-")
                wait_until(lambda: len(names(status="active")) == 2)
    assert "taking a new one and enrolling again" in (home / "copy.log").read_text()
