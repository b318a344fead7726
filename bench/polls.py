"""The cost of held polls (memory, CPU, delay of other requests), and how fast a group command reaches all of them."""

import asyncio
import resource
import statistics
import time
from collections.abc import Sequence
from functools import partial
from uuid import UUID

import msgspec

from bench.figures import Effort, Figure, Measured, Measurement, percentile
from bench.load import connect, connect_all, timed
from bench.messages import HEALTH_CHECK, event_batches, poll, submit
from bench.system import System
from comms_api.protocol import Orders

POLLS = 10_000
SPARE_DESCRIPTORS = 500
SETTLE_SECONDS = 2.0
IDLE_SECONDS = 10.0
PROBE_BLOCKS = 5
PROBES = 200


async def measure(system: System, effort: Effort) -> Measured:
    """Hold polls, leave them idle, and answer them by a command."""
    held = min(effort.of(POLLS), allow_descriptors(POLLS) - SPARE_DESCRIPTORS)
    agents = await system.enroll(held, "polls")
    [probe] = await system.enroll(1, "probe")
    alone = await _probe_p99s(system, probe)
    before = system.resident_bytes()
    opened = await connect_all(system, [poll(system.token(agent)) for agent in agents])
    await asyncio.sleep(SETTLE_SECONDS)
    resident = system.resident_bytes() - before
    idle_percent = await _idle_percent(system, IDLE_SECONDS)
    crowded = await _probe_p99s(system, probe)
    wake = await _wake(system, [answer for _, answer in opened])
    for connection, _ in opened:
        connection.close()
    values = {
        "poll_kb": resident / held / 1024,
        "idle_cpu_percent": idle_percent,
        "idle_poll_interference": statistics.median(crowded) / statistics.median(alone),
        "group_wake_p99_s": percentile(wake, 0.99),
    }
    raw = {"polls_held": held, "probe_p99_s": {"alone": alone, "crowded": crowded}}
    return Measured(values, raw | {"wake_s": {f"p{share * 100:g}": percentile(wake, share) for share in (0, 0.5, 1)}})


def allow_descriptors(polls: int) -> int:
    """Raise this process's limit of open files to the maximum and return it; the server has the same limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = hard if hard != resource.RLIM_INFINITY else polls * 2
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return limit


async def _probe_p99s(system: System, agent: UUID) -> list[float]:
    """Send health checks and one-event requests in turn, in several blocks; return the p99 of each block."""
    connection = await connect(system)
    [event] = event_batches([agent], system.token, 1)
    blocks = [
        [await timed(partial(connection.send, request)) for request in [HEALTH_CHECK, event] * PROBES]
        for _ in range(PROBE_BLOCKS)
    ]
    connection.close()
    return [percentile(times, 0.99) for times in blocks]


async def _idle_percent(system: System, seconds: float) -> float:
    before, started = system.cpu(), time.perf_counter()
    await asyncio.sleep(seconds)
    return (system.cpu()["server"] - before["server"]) / (time.perf_counter() - started) * 100


async def _wake(system: System, answers: "Sequence[asyncio.Future[bytes]]") -> list[float]:
    """Submit a group command; return the seconds until each poll has its order."""
    times: list[float] = []
    for answer in answers:
        answer.add_done_callback(lambda _: times.append(time.perf_counter()))
    management = await connect(system, system.management_port)
    request = submit(system.administrator_token(), "polls", "group")
    started = time.perf_counter()
    await management.send(request)
    for body in await asyncio.gather(*answers):
        if len(msgspec.json.decode(body, type=Orders).commands) != 1:
            raise RuntimeError(body.decode())
    management.close()
    return [at - started for at in times]


MEASUREMENT = Measurement(
    "polls",
    (
        Figure("poll_kb", 48, 24, "KB resident per held poll", is_most=True),
        Figure("group_wake_p99_s", 3, 1, "seconds", is_most=True),
        Figure("idle_cpu_percent", 2, 2, "percent of a core", is_most=True),
        Figure("idle_poll_interference", 2, 2, "ratio of p99", is_most=True),
    ),
    measure,
)
