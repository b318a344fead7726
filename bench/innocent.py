"""Measure the effect of attacks on an innocent agent: its p99 during each attack against its p99 alone.

Attacker and server share the machine's cores, so "alone" means: while the same bytes are sent at the same times to a
server that discards them. Innocent agents have their own machines, so the process that measures never waits for a core,
if the system allows it a real-time priority.

A turn of an innocent agent is a login, a small batch and a poll that brings an order, each on a new TLS connection.
Turns begin at fixed times, even if earlier turns have not ended: a stall delays every turn that begins during it.

Short phases alternate, attacked and alone, so that a change of the machine's speed affects both. A phase has too few
exchanges for a separate p99, so the ratio compares the p99 of all phases together; `build/bench/innocent.json` has
its interval (`bench/resampling.py`).
"""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator, Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TypeVar
from uuid import UUID

import msgspec

from bench.attacker import Plan, Report
from bench.attacks import ATTACKS, Attack
from bench.figures import Effort, Figure, Measured, Measurement, percentile
from bench.load import Refusal, connect, timed
from bench.messages import event_batches, poll, post, submit
from bench.polls import allow_descriptors
from bench.resampling import Blocks, ratio_interval
from bench.system import KEY, System, second_node
from comms_api.protocol import Orders

PHASE_SECONDS, QUICK_PHASE_SECONDS = 3.0, 1.0
PHASES_IN_ROUND = 2
INTERVAL_SECONDS = 0.05
TURNS_IN_BLOCK = 20
"""A stall delays several turns, so the turns of a second are drawn together for the interval."""

PATIENCE_SECONDS = 15.0
FAILED_SECONDS = 60.0
"""The time that a failed exchange counts as: a real agent's time-out."""

IDLE_CPU_SHARE = 0.2
LOOK_SECONDS = 0.25
LOOKS_MAXIMUM = 80
DESCRIPTORS = 10_000
KEY_REQUEST_PROGRAM = """#!/bin/sh
echo '{"error":0,"data":{"id":"'"$2"'","name":"'"$2"'","ip":"any","key":"weak"}}'
"""


class Phase(msgspec.Struct, frozen=True):
    """The latencies of innocent agents for some seconds, and the attackers' requests in that time."""

    p50_s: float
    p99_s: float
    p99_s_of: dict[str, float]
    """The p99 of each kind of exchange."""

    failures: dict[str, int]
    requests: int
    bytes_sent: int
    outcomes: dict[str, int]


class Pooled(msgspec.Struct, frozen=True):
    """The latencies of all phases of one kind together."""

    p50_s: float
    p99_s: float
    exchanges: int
    phases: Sequence[Phase]


class Comparison(msgspec.Struct, frozen=True):
    """The p99 of attacked phases divided by the p99 of the others, and its interval of 95 %."""

    ratio: float
    interval: tuple[float, float]
    attacked: Pooled
    alone: Pooled


Key = TypeVar("Key", bound=Hashable)


class Exchange(msgspec.Struct, frozen=True):
    """One exchange of an innocent agent; `block` is the number of its block in the phase."""

    kind: str
    block: int
    seconds: float


class Innocents:
    """Agents that take turns, so that one agent's turns do not overlap."""

    def __init__(self, system: System, agents: Sequence[UUID]) -> None:
        self._system = system
        self._agents = agents
        self._turns = 0
        self._batches = event_batches(agents, system.token, 1)
        self._submission = [submit(system.administrator_token(), str(agent), "agent") for agent in agents]

    async def measure(self, phase_seconds: float) -> tuple[Sequence[Exchange], dict[str, int]]:
        """Start turns for some seconds; return all exchanges and the failures once all turns have ended."""
        exchanges, failures = list[Exchange](), Counter[str]()
        async with asyncio.TaskGroup() as group:
            for number in range(round(phase_seconds / INTERVAL_SECONDS)):
                self._turns += 1
                turn = self._turn(self._turns % len(self._agents), number // TURNS_IN_BLOCK, exchanges, failures)
                group.create_task(turn)
                await asyncio.sleep(INTERVAL_SECONDS)
        return exchanges, dict(failures)

    async def _turn(self, number: int, block: int, exchanges: list[Exchange], failures: Counter[str]) -> None:
        agent, system = self._agents[number], self._system
        token = system.token(agent)
        login = post("/login", "", msgspec.json.encode({"uuid": str(agent), "key": KEY}))
        for name, request in (("login", login), ("batch", self._batches[number]), ("order", poll(token, 10))):
            try:
                if name == "order":
                    await self._ask(self._submission[number], system.management_port)
                seconds = await timed(partial(self._ask, request))
            except (Refusal, OSError, msgspec.MsgspecError) as failure:  # a time-out is an OSError, too
                failures[f"{name}: {getattr(failure, 'status', type(failure).__name__)}"] += 1
                seconds = FAILED_SECONDS
            exchanges.append(Exchange(name, block, seconds))

    async def _ask(self, request: bytes, port: int | None = None) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            connection = await connect(self._system, port)
            try:
                body = await connection.send(request)
            finally:
                connection.close()
        if request.startswith(b"GET /commands") and not msgspec.json.decode(body, type=Orders).commands:
            raise TimeoutError


async def measure(system: System, effort: Effort, attacks: Mapping[str, Attack] = ATTACKS) -> Measured:
    """Alternate each attack with its bytes alone, and compare them."""
    allow_descriptors(DESCRIPTORS)
    program = system.folder / "key-request"
    program.write_text(KEY_REQUEST_PROGRAM)
    program.chmod(0o755)
    async with (
        second_node(system, {"COMMS_API_KEY_REQUEST_PROGRAM": str(program)}) as node,
        discarding(node.folder / "certs") as port,
    ):
        await node.load_tokens()
        innocents = Innocents(node, await node.enroll(400, "innocent"))
        await innocents.measure(1)
        with _real_time_priority():
            raw = {name: await _compare(attack, node, innocents, port, effort) for name, attack in attacks.items()}
    ratios = {name: comparison.ratio for name, comparison in raw.items()}
    return Measured({"innocent_p99_ratio": max(ratios.values())}, {"ratios": ratios, "attacks": raw})


@contextmanager
def _real_time_priority() -> Iterator[None]:
    """Run this process before all others, but not the processes that it starts; only root may do so (sched(7))."""
    before, ordinary = os.sched_getscheduler(0), os.sched_param(0)
    with suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    try:
        yield
    finally:
        os.sched_setscheduler(0, before, ordinary)


async def _compare(attack: Attack, node: System, innocents: Innocents, discard_port: int, effort: Effort) -> Comparison:
    seconds = PHASE_SECONDS if effort.share == 1 else QUICK_PHASE_SECONDS
    authority = str(node.folder / "certs" / "ca.pem")
    phases: tuple[list[Phase], list[Phase]] = ([], [])
    blocks: tuple[list[Sequence[float]], list[Sequence[float]]] = ([], [])
    for number in range(effort.rounds * PHASES_IN_ROUND):
        lanes = await attack(node, number)
        plan = Plan(authority, lanes)
        for is_alone in (False, True):
            phase, exchanges, sent = await _phase(node, innocents, seconds, plan)
            phases[is_alone].append(phase)
            blocks[is_alone].extend(_group(exchanges, lambda exchange: exchange.block).values())
            plan = Plan(authority, lanes, sent.starts, discard_port)
    attacked, alone = map(_pool, blocks, phases)
    return Comparison(attacked.p99_s / alone.p99_s, ratio_interval(*blocks, 0.99), attacked, alone)


def _group(exchanges: Sequence[Exchange], key: Callable[[Exchange], Key]) -> dict[Key, list[float]]:
    groups: dict[Key, list[float]] = {}
    for exchange in exchanges:
        groups.setdefault(key(exchange), []).append(exchange.seconds)
    return groups


def _pool(blocks: Blocks, phases: Sequence[Phase]) -> Pooled:
    latencies = list(chain.from_iterable(blocks))
    return Pooled(percentile(latencies, 0.5), percentile(latencies, 0.99), len(latencies), phases)


async def _phase(
    node: System, innocents: Innocents, seconds: float, plan: Plan
) -> tuple[Phase, Sequence[Exchange], Report]:
    await node.checkpoint()
    await _wait_until_idle(node)
    async with _attacking(plan) as attacker:
        exchanges, failures = await innocents.measure(seconds)
        encoded, _ = await attacker.communicate(b"\n")
    sent = msgspec.msgpack.decode(encoded, type=Report)
    latencies = [exchange.seconds for exchange in exchanges]
    of_kind = _group(exchanges, lambda exchange: exchange.kind)
    phase = Phase(
        p50_s=percentile(latencies, 0.5),
        p99_s=percentile(latencies, 0.99),
        p99_s_of={name: percentile(kind, 0.99) for name, kind in of_kind.items()},
        failures=failures,
        requests=len(sent.starts),
        bytes_sent=sent.bytes_sent,
        outcomes=sent.outcomes,
    )
    return phase, exchanges, sent


async def _wait_until_idle(node: System) -> None:
    """Wait until the node has finished an earlier attack's work; give up after a while, which shows in the figure."""
    for _ in range(LOOKS_MAXIMUM):
        before = node.cpu()["server"]
        await asyncio.sleep(LOOK_SECONDS)
        if node.cpu()["server"] - before < LOOK_SECONDS * IDLE_CPU_SHARE:
            return


@asynccontextmanager
async def _attacking(plan: Plan) -> AsyncIterator[Process]:
    encoded = msgspec.msgpack.encode(plan)
    async with _process("bench.attacker") as attacker:
        assert attacker.stdin is not None  # noqa: S101 - it is a pipe
        assert attacker.stdout is not None  # noqa: S101 - the same
        attacker.stdin.write(b"%d\n" % len(encoded) + encoded)
        await attacker.stdin.drain()
        await attacker.stdout.readline()  # it has begun
        yield attacker


@asynccontextmanager
async def discarding(certificates: Path) -> AsyncIterator[int]:
    """Run a server that discards all input for the block, and return its port."""
    async with _process("bench.attacker", "discard", str(certificates)) as server:
        assert server.stdout is not None  # noqa: S101 - it is a pipe
        yield int(await server.stdout.readline())


@asynccontextmanager
async def _process(module: str, *arguments: str) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", module, *arguments, stdin=PIPE, stdout=PIPE)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


MEASUREMENT = Measurement(
    "innocent", (Figure("innocent_p99_ratio", 2, 1.2, "ratio of p99 during attacks", is_most=True),), measure
)
