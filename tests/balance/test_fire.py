"""Kill three nodes in turn while 300 agents work through HAProxy: nothing that was acknowledged is lost.

`TEST_FIRE_SECONDS` sets how long nodes are killed.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle
from pathlib import Path
from signal import SIGKILL
from typing import Any
from uuid import UUID

import pytest
from support.balancers import BEHIND_BALANCERS, Balancer, running_balancer
from support.batches import command
from support.databases import querying
from support.fleet import LAST_STATE, Fleet, Pace, events, states
from support.ledger import Ledger, assert_all_are_stored_once, stored_items
from support.ports import fixed_binds
from support.server import Server, start_server
from support.waiting import PATIENCE, until, wait_until

SECONDS = float(os.environ.get("TEST_FIRE_SECONDS", "60"))
AGENTS = 300
PACE = Pace(pause_seconds=4.0, retry_seconds=0.5, poll_seconds=20)
KILL_EVERY_SECONDS = 5.0
DOWN_SECONDS = 1.0
LONG_DOWN_SECONDS = 10.0
"""The second killed node stays down for this long, so that the other nodes must report it as lost."""

SUBMIT_EVERY_SECONDS = 5.0
LOST_SECONDS = 8.0
"""A node is lost six seconds after its last heartbeat, which may be as late as its death."""

Query = Callable[..., list[Any]]


@dataclass
class Node:
    """A node that is killed and started again, and when it last went up or down."""

    name: str
    server: Server
    start: Callable[[], Server]
    is_up: bool = True
    is_starting: bool = False
    changed_at: float = field(default_factory=time.monotonic)

    def kill(self) -> None:
        self.is_up, self.changed_at = False, time.monotonic()
        self.server.process.send_signal(SIGKILL)
        self.server.stop()

    async def start_again(self, after_seconds: float) -> None:
        await asyncio.sleep(after_seconds)
        self.is_starting = True
        self.server = await asyncio.to_thread(self.start)
        self.is_up, self.is_starting, self.changed_at = True, False, time.monotonic()


@dataclass
class Watch:
    """The answers of `comms-api cluster nodes` during the test."""

    answers: int = 0
    failures: int = 0
    mistakes: list[str] = field(default_factory=list)
    states: Counter[str] = field(default_factory=Counter)


@dataclass
class Kill:
    """The death of a node."""

    node: str
    at: float


@pytest.fixture
def nodes(folder: Path, database_url: str) -> Iterator[list[Node]]:
    with ExitStack() as stack:
        started = []
        for number in (1, 2, 3):
            node = new_node(folder, database_url, f"node{number}")
            stack.callback(lambda node=node: node.server.stop())
            started.append(node)
        yield started


def new_node(folder: Path, url: str, name: str) -> Node:
    settings: dict[str, Any] = {"node_name": name, "lease_seconds": 3, "sweep_seconds": 1}
    settings |= fixed_binds() | BEHIND_BALANCERS
    start = partial(start_server, folder, url, **settings)
    return Node(name, start(), start)


@pytest.fixture
def balancer(folder: Path, nodes: list[Node]) -> Iterator[Balancer]:
    with running_balancer("haproxy/pass-through", folder, [node.server for node in nodes]) as running:
        yield running


@pytest.fixture
def fleet(nodes: list[Node], balancer: Balancer) -> Fleet:
    """Agents that send and poll through the balancer, and an operator that submits a command to all of them."""
    server = nodes[0].server
    management, fleet = server.management(), Fleet(server.tls, balancer.agent_port, PACE)
    assert management.post("/groups", json={"name": "fire"}).status_code == 201
    for number in range(AGENTS):
        agent_id = server.enroll(management, f"fire-{number}", ("fire",))
        fleet.send(agent_id, events, states)
        fleet.poll(agent_id)
    fleet.submit(management, balancer.management_port, command("fire", "group"), SUBMIT_EVERY_SECONDS)
    return fleet


@pytest.mark.faults
@pytest.mark.anyio
async def test_nodes_that_are_killed_lose_nothing_that_was_acknowledged(
    database_url: str, nodes: list[Node], balancer: Balancer, fleet: Fleet
) -> None:
    ledger, watch, query = fleet.ledger, Watch(), querying(database_url)
    stopping = asyncio.Event()
    with fleet.running():
        await asyncio.sleep(PACE.pause_seconds)
        watching = asyncio.create_task(watch_until(stopping, watch, nodes, balancer))
        kills = await kill_nodes(nodes, ledger)
        stopping.set()
        await watching
        await asyncio.to_thread(fleet.stop_sending)
        await asyncio.to_thread(wait_until, lambda: query("SELECT count(*) FROM orders") == [(0,)])
    await asyncio.to_thread(check_storage, ledger, query)
    print_faults(kills, ledger, watch)
    assert all(len(ledger.first_answers(kill.at)) == AGENTS for kill in kills)
    assert (watch.mistakes, watch.states["lost"] > 0) == ([], True)


async def kill_nodes(nodes: list[Node], ledger: Ledger) -> list[Kill]:
    """Kill a node every few seconds while another is up, and start it again; return when every agent is served."""
    ends_at, kills, restarts = time.monotonic() + SECONDS, [], []
    for node in cycle(nodes):
        if time.monotonic() > ends_at:
            break
        if node.is_up and any(other.is_up for other in nodes if other is not node):
            kills.append(Kill(node.name, time.monotonic()))
            node.kill()
            down_seconds = LONG_DOWN_SECONDS if len(kills) == 2 else DOWN_SECONDS
            restarts.append(asyncio.create_task(node.start_again(down_seconds)))
            await asyncio.sleep(KILL_EVERY_SECONDS)
        await asyncio.sleep(0.1)
    await asyncio.gather(*restarts)
    await until(lambda: len(ledger.first_answers(kills[-1].at)) == AGENTS)
    return kills


async def watch_until(stopping: asyncio.Event, watch: Watch, nodes: list[Node], balancer: Balancer) -> None:
    """Run `comms-api cluster nodes` repeatedly, and compare its answers with the real state of the nodes."""
    folder = nodes[0].server.folder
    options = ["--url", balancer.management_url, "--ca", str(folder / "certs" / "ca.pem")]
    options += ["--password-file", str(folder / "password"), "--json"]
    program = [sys.executable, "-m", "comms_api", "cluster", "nodes", *options]
    reported: dict[str, str] = {}
    while not stopping.is_set() or set(reported.values()) != {"active"}:
        asked_at = time.monotonic()
        done = await asyncio.to_thread(subprocess.run, program, capture_output=True, timeout=PATIENCE, check=False)
        if done.returncode:
            watch.failures += 1
            continue
        watch.answers += 1
        reported = {node["name"]: node["state"] for node in json.loads(done.stdout)}
        watch.states.update(reported.values())
        watch.mistakes += [found for node in nodes if (found := mistake(node, reported.get(node.name), asked_at))]
        await asyncio.sleep(1)


def mistake(node: Node, state: str | None, asked_at: float) -> str:
    """Return how a reported state is wrong, or "". Any state is right for a node that starts."""
    seconds = asked_at - node.changed_at
    if not node.is_up and not node.is_starting and seconds > LOST_SECONDS and state not in {"lost", None}:
        return f"{node.name}, dead for {seconds:.1f} s, is reported as {state}"
    return ""


def check_storage(ledger: Ledger, query: Query) -> None:
    """Compare the ledger with the database."""
    stored = stored_items(query)
    assert_all_are_stored_once(ledger, stored)
    assert ledger.acknowledged("events") == stored["events"].keys()
    last = query(f"SELECT agent_id, (data ->> 'number')::int FROM states WHERE id = '{LAST_STATE}'")
    assert dict(map(tuple, last)) == last_numbers(ledger)
    orders = AGENTS * sum(len(tally.answered) for tally in ledger.of("orders"))
    [counts] = query(
        "SELECT count(*), count(DISTINCT (request_id, agent_id)), sum(attempt)::int FROM finished_orders"
        " WHERE status = 'success'"
    )
    print(f"{orders} orders, offered {counts[2]} times, received {ledger.offered.total()} times")
    assert tuple(counts[:2]) == (orders, orders)
    assert len(ledger.offered) == orders
    assert max(ledger.ended.values()) == 1


def last_numbers(ledger: Ledger) -> dict[UUID | None, int]:
    """Return the number of each agent's last acknowledged batch of states."""
    tallies = (tally for tally in ledger.of("states") if tally.acknowledged)
    return {tally.agent_id: int(list(tally.acknowledged)[-1].split()[1]) for tally in tallies}


def print_faults(kills: list[Kill], ledger: Ledger, watch: Watch) -> None:
    slowest = [f"{kill.node} {max(ledger.first_answers(kill.at).values()):.1f} s" for kill in kills]
    print(f"""
    {AGENTS} agents for {SECONDS:g} s, {len(kills)} kills; the last agent was served again after {", ".join(slowest)}
    {ledger.report(kills[0].at)}
    cluster nodes: {watch.answers} answers, {watch.failures} failures, {dict(watch.states)}, wrong: {watch.mistakes}
    """)
