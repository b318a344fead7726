"""The cost of a request with one worker and with two. The load generator needs the same cores, so rates say little."""

import statistics
import time
from collections.abc import Sequence

from bench.figures import Effort, Figure, Measured, Measurement
from bench.load import drive
from bench.messages import event_batches
from bench.system import System

CONNECTIONS = 32
"""Connections per worker."""

EVENTS_PER_REQUEST = {"one": 1, "hundred": 100}
REQUESTS = {"one": 250, "hundred": 50}
"""Requests per connection."""

WORKERS = (1, 2)


async def measure(system: System, effort: Effort) -> Measured:
    """Alternate servers with one and with two workers; the gain is twice the ratio of their CPU costs per request."""
    agents = await system.enroll(CONNECTIONS * max(WORKERS), "workers")
    requests = {name: event_batches(agents, system.token, count) for name, count in EVENTS_PER_REQUEST.items()}
    rounds: dict[str, list[dict[str, float]]] = {}
    for _ in range(max(3, effort.rounds)):
        for workers in WORKERS:
            await system.restart(workers=workers)
            for name, every in requests.items():
                used = every[: CONNECTIONS * workers]
                await drive(system, [[request] * 5 for request in used])
                measured = await _round(system, used, effort.of(REQUESTS[name]))
                rounds.setdefault(f"{name}_{workers}", []).append(measured)
    cost = {name: statistics.median(each["cpu_us"] for each in measured) for name, measured in rounds.items()}
    gain = {name: 2 * cost[f"{name}_1"] / cost[f"{name}_2"] for name in EVENTS_PER_REQUEST}
    return Measured({"two_workers": min(gain.values())}, {"gain": gain, "cpu_us_per_request": cost, "rounds": rounds})


async def _round(system: System, requests: Sequence[bytes], each: int) -> dict[str, float]:
    await system.checkpoint()
    before, started = system.cpu(), time.perf_counter()
    await drive(system, [[request] * each for request in requests])
    seconds, count = time.perf_counter() - started, each * len(requests)
    cpu = system.cpu_since(before, count)
    return {**cpu, "cpu_us": cpu["server"] + cpu["postgresql"], "requests_per_second": count / seconds}


MEASUREMENT = Measurement("workers", (Figure("two_workers", 1.6, 1.8, "times the requests of one"),), measure)
