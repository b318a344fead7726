"""Followers get each acknowledged event once, although commits are held back, and a node and PostgreSQL are killed."""

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from signal import SIGKILL, SIGTERM
from threading import Event

import pytest
from support.batches import stateless
from support.fleet import Fleet, Pace, events
from support.keyed import held, is_waiting
from support.ledger import Ledger
from support.ports import fixed_binds
from support.replication import Postgres, running_postgres
from support.server import PASSWORD, Server, start_server
from support.waiting import wait_until

from comms_api.client.transport.endpoint import Endpoint
from comms_api.errors import Unavailable
from comms_api.management_client.client import ManagementClient
from comms_api.management_client.logins import Password

AGENTS = 3
PACE = Pace(pause_seconds=0.02, retry_seconds=0.1, poll_seconds=1)
HOLDING = """
    CREATE FUNCTION hold_back() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN PERFORM pg_advisory_xact_lock_shared(16); RETURN NULL; END';
    CREATE CONSTRAINT TRIGGER hold_back AFTER INSERT ON event_batches DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW WHEN (NEW.agent_id = '{}') EXECUTE FUNCTION hold_back()"""
"""Let the commits of an agent's batches wait while another session holds the lock."""

HOLD = "SELECT pg_advisory_xact_lock(16)"


@dataclass
class Follower:
    """Follows through the nodes in turn, and notes the events and how often they were held back."""

    apis: Sequence[ManagementClient]
    after: str
    is_finished: Event = field(default_factory=Event)
    seen: list[str] = field(default_factory=list)
    held_back: int = 0

    def run(self) -> None:
        for api in cycle(self.apis):
            if self.is_finished.is_set():
                return
            try:
                answer = api.ask("GET", "/events/tail", params={"after": self.after, "wait": 0.5, "limit": 1000}).json()
            except Unavailable:
                continue
            self.seen += [item["event"]["key"] for item in answer["items"]]
            self.after = answer["next"]
            self.held_back += answer["held_back"] is not None


@contextmanager
def following(nodes: Sequence[Server]) -> Iterator[Follower]:
    """Follow on a thread for the block."""
    with ExitStack() as stack:
        endpoints = (Endpoint(node.management_url, node.ca, is_direct=True) for node in nodes)
        apis = [stack.enter_context(ManagementClient(endpoint, Password("admin", PASSWORD))) for endpoint in endpoints]
        follower = Follower(apis, apis[0].ask("GET", "/events/tail").json()["next"])
        running = stack.enter_context(ThreadPoolExecutor(1)).submit(follower.run)
        stack.callback(follower.is_finished.set)
        yield follower
        follower.is_finished.set()
        running.result()


@contextmanager
def following_by_command_line(node: Server, output: Path) -> Iterator[Callable[[], list[str]]]:
    """Run `comms-api events tail --follow` for the block; the result returns the events that it has printed."""
    program = [sys.executable, "-m", "comms_api", "events", "tail", "--follow", "--last", "1", "--json"]
    program += ["--url", node.management_url, "--ca", str(node.ca), "--password-file", str(node.folder / "password")]
    with output.open("w") as file, subprocess.Popen(program, stdout=file) as process:
        try:
            yield lambda: [
                json.loads(line)["event"]["key"] for line in output.read_text().rpartition("\n")[0].splitlines()
            ]
        finally:
            process.send_signal(SIGTERM)


@pytest.fixture
def postgres_server(scratch: Path) -> Iterator[Postgres]:
    with running_postgres(scratch / "followed") as server:
        yield server


@pytest.fixture
def nodes(folder: Path, postgres_server: Postgres) -> Iterator[list[Server]]:
    """Two nodes; a test may replace one."""
    nodes: list[Server] = []
    try:
        for name in ("one", "two"):
            nodes.append(start_server(folder, postgres_server.url, node_name=name, **fixed_binds()))  # noqa: PERF401
        yield nodes
    finally:
        for node in nodes:
            node.stop()


def restart(nodes: list[Server], database_url: str) -> None:
    """Kill the second node and start it again on the same ports."""
    killed = nodes[1]
    binds = {f"{api}_bind": f"127.0.0.1:{getattr(killed, f'{api}_port')}" for api in ("agent", "management")}
    killed.stop(SIGKILL)
    nodes[1] = start_server(killed.folder, database_url, node_name="two", **binds)


@contextmanager
def late_commit(postgres: Postgres, follower: Follower, passing: Ledger) -> Iterator[None]:
    """Hold a commit of the first node back for the block, which begins when followers wait and others have passed."""
    reported = follower.held_back
    with held(postgres.url, HOLD):
        wait_until(lambda: is_waiting(postgres.query))
        began = time.monotonic()
        wait_until(lambda: follower.held_back > reported and passing.is_answered_since(began))
        yield


@pytest.mark.faults
def test_followers_get_each_acknowledged_event_once(
    postgres_server: Postgres, nodes: list[Server], tmp_path: Path
) -> None:
    management, fleets = nodes[0].management(), [Fleet(node.tls, node.agent_port, PACE) for node in nodes]
    for number, fleet in enumerate(fleets):
        for agent in range(AGENTS):
            fleet.send(nodes[0].enroll(management, f"sender {number} {agent}"), events)
    late = nodes[0].enroll(management, "late")
    nodes[0].log_in(late).post("/events/stateless", content=stateless(late, {"key": "begin"})).raise_for_status()
    fleets[0].send(late, events)
    for statement in HOLDING.format(late).split(";\n"):
        postgres_server.query(statement)
    with following(nodes) as follower, following_by_command_line(nodes[1], tmp_path / "printed") as printed:
        wait_until(printed)
        with fleets[0].running(), fleets[1].running():
            with late_commit(postgres_server, follower, fleets[1].ledger):
                restart(nodes, postgres_server.url)
                restarted = time.monotonic()
                wait_until(lambda: fleets[1].ledger.is_answered_since(restarted))
            with late_commit(postgres_server, follower, fleets[1].ledger):
                postgres_server.kill()
                postgres_server.start()
            recovered = time.monotonic()
            wait_until(lambda: all(fleet.ledger.is_answered_since(recovered) for fleet in fleets))
        acknowledged = set().union(*(fleet.ledger.acknowledged("events") for fleet in fleets))
        wait_until(
            lambda: acknowledged <= {*follower.seen} & {*printed()},
            says=lambda: [sorted(acknowledged.difference(seen))[:5] for seen in (follower.seen, printed())],
        )
        counts = Counter(["begin", *follower.seen]), Counter(printed())
    for count in counts:
        assert set(count.values()) == {1}
        assert count.keys() == {"begin", *acknowledged}
    print(f"{len(acknowledged)} events acknowledged and followed; {follower.held_back} answers were held back")
