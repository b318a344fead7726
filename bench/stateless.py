"""Events per second over HTTPS, durable before the answer, compared with a copy of the same events by psql."""

import os
import statistics
from collections.abc import Sequence
from functools import partial
from uuid import UUID

import zstandard

from bench.figures import Effort, Figure, Measured, Measurement, Rates, medians
from bench.load import drive
from bench.messages import event_lines, post, stateless
from bench.row_table import copy_rows, create_row_table, write_rows
from bench.system import System

EVENTS_PER_REQUEST = 100
CONNECTIONS = (32, 64, 128)
REQUESTS = 3840
"""Requests per round; a multiple of each number of connections."""


async def measure(system: System, effort: Effort, workers: int, suffix: str) -> Measured:
    """Alternate rounds of psql, of plain requests and of zstd requests."""
    if workers > 1:
        await system.restart(workers=workers)
    agents = await system.enroll(max(CONNECTIONS), "stateless")
    lines = [event_lines(EVENTS_PER_REQUEST, seed) for seed in range(len(agents))]
    plain, packed = _encode(system, agents, lines)
    requests = effort.of(REQUESTS // max(CONNECTIONS)) * max(CONNECTIONS)
    tried = {count: (await _round(system, plain[:count], requests))[0] for count in CONNECTIONS}
    best = max(tried, key=tried.__getitem__)
    repeats = requests // best
    file = write_rows(system.folder / "rows.tsv", list(zip(agents[:best], lines, strict=False)) * repeats)
    await create_row_table(system)
    os.sync()
    rates: Rates = {"copy": [], "plain": [], "zstd": []}
    cpu: dict[str, list[dict[str, float]]] = {"plain": [], "zstd": []}
    for _ in range(effort.rounds):
        rates["copy"].append(requests * EVENTS_PER_REQUEST / await copy_rows(system, file))
        for name, encoded in (("plain", plain), ("zstd", packed)):
            rate, cost = await _round(system, encoded[:best], requests)
            rates[name].append(rate)
            cpu[name].append(cost)
    middle = medians(rates)
    values = {
        f"stateless_vs_copy{suffix}": middle["plain"] / middle["copy"],
        f"zstd_vs_plain{suffix}": middle["zstd"] / middle["plain"],
    }
    raw = {"events_per_second": rates, "medians": middle, "connections": best, "connections_tried": tried}
    costs = {f"cpu_us_per_event_{name}": _medians_of(rounds) for name, rounds in cpu.items()}
    return Measured(values, {**raw, **costs, "workers": workers})


def _encode(
    system: System, agents: Sequence[UUID], lines: Sequence[Sequence[bytes]]
) -> tuple[list[bytes], list[bytes]]:
    compress = zstandard.ZstdCompressor(1).compress
    bodies = [(system.token(agent), stateless(agent, events)) for agent, events in zip(agents, lines, strict=True)]
    plain = [post("/events/stateless", token, body) for token, body in bodies]
    packed = [post("/events/stateless", token, compress(body), "Content-Encoding: zstd") for token, body in bodies]
    return plain, packed


async def _round(system: System, encoded: Sequence[bytes], requests: int) -> tuple[float, dict[str, float]]:
    """Send requests; return the events per second and the CPU microseconds per event."""
    await system.checkpoint()
    before, events = system.cpu(), requests * EVENTS_PER_REQUEST
    seconds = await drive(system, [[request] * (requests // len(encoded)) for request in encoded])
    return events / seconds, system.cpu_since(before, events)


def _medians_of(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}


def _measurement(name: str, workers: int, suffix: str, must: float, aim: float) -> Measurement:
    figures = (
        Figure(f"stateless_vs_copy{suffix}", must, aim, "ratio"),
        Figure(f"zstd_vs_plain{suffix}", 1.2, 2, "ratio"),
    )
    return Measurement(name, figures, partial(measure, workers=workers, suffix=suffix))


MEASUREMENT = _measurement("stateless", os.cpu_count() or 1, "", 1.4, 2.2)
"""One worker per core."""

ONE_WORKER = _measurement("stateless_one_worker", 1, "_one_worker", 1.05, 1.5)
