"""Three nodes under fire: killed one after the other while 300 agents work through HAProxy, and nothing is lost.

`TEST_FIRE_SECONDS` says for how long.
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

import httpx
import pytest
from support.balancers import BEHIND_BALANCERS, Balancer, running_balancer
from support.batches import command
from support.crowd import BATCH_SECONDS, Agent, Kill, Ledger
from support.databases import querying
from support.ports import fixed_binds
from support.server import Server, start_server
from support.waiting import PATIENCE, until, wait_until

SECONDS = float(os.environ.get("TEST_FIRE_SECONDS", "60"))
AGENTS = 300
KILL_EVERY_SECONDS = 5.0
DOWN_SECONDS = 1.0
LONG_DOWN_SECONDS = 10.0
"""One node stays away for so long that it must be shown as lost."""

ORDERS_EVERY_SECONDS = 5.0
LOST_SECONDS = 8.0
"""A node is lost after six seconds of silence, and it may have spoken just before it died."""

Query = Callable[..., list[Any]]


@dataclass
class Node:
    """A node that is killed and started again, and since when it is up or down."""

    name: str
    server: Server
    start: Callable[[], Server]
    is_up: bool = True
    is_starting: bool = False
    since: float = field(default_factory=time.monotonic)

    def kill(self) -> None:
        self.is_up, self.since = False, time.monotonic()
        self.server.process.send_signal(SIGKILL)
        self.server.stop()

    async def start_again(self) -> None:
        self.is_starting = True
        self.server = await asyncio.to_thread(self.start)
        self.is_up, self.is_starting, self.since = True, False, time.monotonic()


@dataclass
class Watch:
    """The answers of `comms-api cluster nodes` during the test."""

    looks: int = 0
    unanswered: int = 0
    lies: list[str] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)


@dataclass
class Arena:
    """Where it happens, and what is noted of it; the token is the administrator's."""

    balancer: Balancer
    nodes: list[Node]
    token: str
    ledger: Ledger = field(default_factory=Ledger)
    watch: Watch = field(default_factory=Watch)


@pytest.fixture
def nodes(folder: Path, database_url: str) -> Iterator[list[Node]]:
    with ExitStack() as ending:
        started = []
        for number in (1, 2, 3):
            node = _new_node(folder, database_url, f"node{number}")
            ending.callback(lambda node=node: node.server.stop())
            started.append(node)
        yield started


def _new_node(folder: Path, url: str, name: str) -> Node:
    settings: dict[str, Any] = {"node_name": name, "lease_seconds": 3, "sweep_seconds": 1}
    settings |= fixed_binds() | BEHIND_BALANCERS
    start = partial(start_server, folder, url, **settings)
    return Node(name, start(), start)


@pytest.fixture
def agent_ids(nodes: list[Node]) -> list[UUID]:
    management = nodes[0].server.management()
    assert management.post("/groups", json={"name": "fire"}).status_code == 201
    return [nodes[0].server.enroll(management, f"fire-{number}", ("fire",)) for number in range(AGENTS)]


@pytest.mark.faults
@pytest.mark.anyio
async def test_nodes_that_are_killed_lose_nothing_that_was_acknowledged(
    folder: Path, database_url: str, nodes: list[Node], agent_ids: list[UUID]
) -> None:
    token = nodes[0].server.management().headers["Authorization"]
    with running_balancer("haproxy/pass-through", folder, [node.server for node in nodes]) as balancer:
        arena = Arena(balancer, nodes, token)
        commands = await _fight(arena, agent_ids, querying(database_url))
    ledger, watch = arena.ledger, arena.watch
    stored = await asyncio.to_thread(_read, querying(database_url))
    _print(ledger, watch, commands, stored)
    _check_events(ledger, stored)
    assert {agent_id: stored.states[agent_id] for agent_id in ledger.states} == ledger.states
    assert (stored.open_orders, stored.ended_orders) == (0, commands * AGENTS)
    assert stored.order_recipients == commands * AGENTS
    assert max(ledger.ended.values()) == 1
    assert all(len(kill.back) == AGENTS for kill in ledger.kills)
    assert (watch.lies, watch.seen["lost"] > 0) == ([], True)


async def _fight(arena: Arena, agent_ids: list[UUID], query: Query) -> int:
    """Let agents work while nodes are killed, then let them finish; return how many commands were submitted."""
    tls, ledger, stopping = arena.nodes[0].server.tls, arena.ledger, asyncio.Event()
    agents = [Agent(agent_id, tls, arena.balancer.agent_port, ledger) for agent_id in agent_ids]
    polls = [asyncio.create_task(agent.poll()) for agent in agents]
    sends = [
        asyncio.create_task(agent.send_until(stopping, BATCH_SECONDS * number / AGENTS))
        for number, agent in enumerate(agents)
    ]
    await asyncio.sleep(BATCH_SECONDS)
    submitting = asyncio.create_task(_submit_until(stopping, arena))
    watching = asyncio.create_task(_watch_until(stopping, arena))
    await _kill_nodes(arena.nodes, ledger)
    stopping.set()
    await asyncio.gather(*sends, watching)
    commands = await submitting
    await _all_ended(polls, ledger, commands * AGENTS, query)
    return commands


async def _all_ended(polls: list[asyncio.Task[None]], ledger: Ledger, orders: int, query: Query) -> None:
    """Wait until every order has been received, and reported; then end the polls."""
    await until(lambda: len(ledger.received) >= orders)
    await asyncio.to_thread(wait_until, lambda: query("SELECT count(*) FROM orders") == [(0,)])
    assert not [poll for poll in polls if poll.done() and poll.exception()]
    for poll in polls:
        poll.cancel()
    await asyncio.gather(*polls, return_exceptions=True)


async def _kill_nodes(nodes: list[Node], ledger: Ledger) -> None:
    """Kill a node every few seconds, if another is up, and start it again, one of them not before a while."""
    ends_at, restarts = time.monotonic() + SECONDS, []
    for node in cycle(nodes):
        if time.monotonic() > ends_at:
            break
        if node.is_up and any(other.is_up for other in nodes if other is not node):
            ledger.kills.append(Kill(node.name, time.monotonic()))
            node.kill()
            down_seconds = LONG_DOWN_SECONDS if len(ledger.kills) == 2 else DOWN_SECONDS
            restarts.append(asyncio.create_task(_revive(node, down_seconds)))
            await asyncio.sleep(KILL_EVERY_SECONDS)
        await asyncio.sleep(0.1)
    await asyncio.gather(*restarts)
    await until(lambda: all(len(kill.back) == AGENTS for kill in ledger.kills))


async def _revive(node: Node, after_seconds: float) -> None:
    await asyncio.sleep(after_seconds)
    await node.start_again()


async def _submit_until(stopping: asyncio.Event, arena: Arena) -> int:
    """Submit a command to all agents every few seconds, each until it is acknowledged; return how many."""
    submitted = 0
    url, tls = arena.balancer.management_url, arena.nodes[0].server.tls
    async with httpx.AsyncClient(base_url=url, verify=tls, timeout=PATIENCE) as client:
        while not stopping.is_set():
            headers = {"Authorization": arena.token, "Idempotency-Key": f"fire-{submitted}"}
            try:
                answer = await client.post("/commands", json=command("fire", "group"), headers=headers)
            except httpx.TransportError:
                await asyncio.sleep(0.5)
                continue
            assert answer.status_code == 201, answer.text
            submitted += 1
            await asyncio.sleep(ORDERS_EVERY_SECONDS)
    return submitted


async def _watch_until(stopping: asyncio.Event, arena: Arena) -> None:
    """Run `comms-api cluster nodes` repeatedly, and compare its answers with the real state of the nodes."""
    watch, folder = arena.watch, arena.nodes[0].server.folder
    options = ["--url", arena.balancer.management_url, "--ca", str(folder / "certs" / "ca.pem")]
    options += ["--password-file", str(folder / "password"), "--json"]
    program = [sys.executable, "-m", "comms_api", "cluster", "nodes", *options]
    told: dict[str, str] = {}
    while not stopping.is_set() or set(told.values()) != {"active"}:
        asked_at = time.monotonic()
        done = await asyncio.to_thread(subprocess.run, program, capture_output=True, timeout=PATIENCE, check=False)
        if done.returncode:
            watch.unanswered += 1
            continue
        watch.looks += 1
        told = {node["name"]: node["state"] for node in json.loads(done.stdout)}
        watch.seen.update(told.values())
        watch.lies += [lie for node in arena.nodes if (lie := _lie(node, told.get(node.name), asked_at))]
        await asyncio.sleep(1)


def _lie(node: Node, told: str | None, asked_at: float) -> str:
    """Return what is wrong with what is told of a node, or nothing; while it starts it may be told either way."""
    for_seconds = asked_at - node.since
    if not node.is_up and not node.is_starting and for_seconds > LOST_SECONDS and told not in {"lost", None}:
        return f"{node.name}, dead for {for_seconds:.1f} s, is told {told}"
    return ""


@dataclass
class Stored:
    """What the database holds in the end."""

    events: Counter[str]
    states: dict[UUID, int]
    open_orders: int
    ended_orders: int
    order_recipients: int
    offers: int


def _read(query: Query) -> Stored:
    events = query("SELECT event ->> 'key' AS key, count(*) AS times FROM events GROUP BY 1")
    states = query("SELECT agent_id, (data ->> 'n')::int AS n FROM states WHERE id = 's'")
    [[still_open]] = query("SELECT count(*) FROM orders")
    [[ended, recipients, offers]] = query(
        "SELECT count(*), count(DISTINCT (request_id, agent_id)), sum(attempt)::int FROM finished_orders"
        " WHERE status = 'success'"
    )
    return Stored(
        Counter({row["key"]: row["times"] for row in events}),
        {row["agent_id"]: row["n"] for row in states},
        still_open,
        ended,
        recipients,
        offers,
    )


def _check_events(ledger: Ledger, stored: Stored) -> None:
    """Every event acknowledged is there: once, or at most as often as it was sent when an answer was lost."""
    assert ledger.acknowledged == set(stored.events)
    wrong = {key: (times, ledger.tries[key]) for key, times in stored.events.items() if times > ledger.tries[key]}
    assert wrong == {}


def _print(ledger: Ledger, watch: Watch, commands: int, stored: Stored) -> None:
    again = {key for key, tries in ledger.tries.items() if tries > 1}
    slowest = [f"{kill.node} {max(kill.back.values(), default=0):.1f} s" for kill in ledger.kills]
    print(f"""
    {AGENTS} agents for {SECONDS:g} s, {len(ledger.kills)} kills; the last agent was back after {", ".join(slowest)}
    connections lost: {sum(ledger.lost.values())} {dict(ledger.lost)};
    none for at most {max(ledger.gaps, default=0):.1f} s
    answers: {dict(ledger.statuses)}
    events: {len(ledger.tries)} sent, {len(ledger.acknowledged)} acknowledged, {len(stored.events)} found
    events sent again as an answer was lost: {len(again)}, found twice: {sum(stored.events[key] > 1 for key in again)}
    states: {ledger.changes} changes acknowledged, {len(stored.states)} found
    orders: {commands} commands, {commands * AGENTS} orders, {stored.ended_orders} ended, {stored.open_orders} open
    offers: {stored.offers}, received {sum(ledger.received.values())}, told to be ended {len(ledger.ended)}
    cluster nodes: {watch.looks} answers, {watch.unanswered} lost, {dict(watch.seen)}, wrong: {watch.lies}
    """)
