"""Events per second over HTTPS, durable before the answer, compared with a copy of the same events by psql."""

import asyncio
import os
import time
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

import zstandard

from bench.figures import Effort, Figure, Measured, Measurement, Rates, medians
from bench.load import drive
from bench.messages import event_lines, post, stateless
from bench.system import System
from comms_api.database.uuid7 import uuid7_at
from comms_api.embedded_postgresql.cluster import DATABASE, ROLE
from comms_api.embedded_postgresql.home import binary

EVENTS_PER_REQUEST = 100
CONNECTIONS = (32, 64, 128)
REQUESTS = 3840
"""Requests per round; a multiple of each number of connections."""


async def measure(system: System, effort: Effort) -> Measured:
    """Alternate rounds of psql, of plain requests and of zstd requests."""
    agents = await system.enroll(max(CONNECTIONS), "stateless")
    lines = event_lines(EVENTS_PER_REQUEST)
    plain, packed = _encode(system, agents, lines)
    requests = effort.of(REQUESTS // max(CONNECTIONS)) * max(CONNECTIONS)
    tried = {count: await _rate(system, plain[:count], requests) for count in CONNECTIONS}
    best = max(tried, key=tried.__getitem__)
    files = [_write_rows(system.folder / f"{number}.tsv", agents, lines, requests) for number in range(effort.rounds)]
    os.sync()
    rates: Rates = {"copy": [], "plain": [], "zstd": []}
    cpu = {}
    for file in files:
        rates["copy"].append(await _copy_rate(system, file, requests))
        before = system.cpu()
        rates["plain"].append(await _rate(system, plain[:best], requests))
        cpu = system.cpu_since(before, requests * EVENTS_PER_REQUEST)
        rates["zstd"].append(await _rate(system, packed[:best], requests))
    middle = medians(rates)
    values = {
        "stateless_vs_copy": middle["plain"] / middle["copy"],
        "zstd_vs_plain": middle["zstd"] / middle["plain"],
    }
    raw = {"events_per_second": rates, "medians": middle, "connections": best, "connections_tried": tried}
    return Measured(values, raw | {"cpu_us_per_event_plain": cpu, "bytes_per_event": len(lines[0])})


def _encode(system: System, agents: Sequence[UUID], lines: Sequence[bytes]) -> tuple[list[bytes], list[bytes]]:
    compress = zstandard.ZstdCompressor(1).compress
    bodies = [(system.token(agent), stateless(agent, lines)) for agent in agents]
    plain = [post("/events/stateless", token, body) for token, body in bodies]
    packed = [post("/events/stateless", token, compress(body), "Content-Encoding: zstd") for token, body in bodies]
    return plain, packed


async def _rate(system: System, encoded: Sequence[bytes], requests: int) -> float:
    await system.checkpoint()
    seconds = await drive(system, [[request] * (requests // len(encoded)) for request in encoded])
    return requests * EVENTS_PER_REQUEST / seconds


def _write_rows(file: Path, agents: Sequence[UUID], lines: Sequence[bytes], requests: int) -> Path:
    """Write the rows that this many requests would store; the ids within a batch increase."""
    payloads = [line.decode().replace("\\", "\\\\") for line in lines]
    with file.open("w") as output:
        for request in range(requests):
            agent, first = agents[request % len(agents)], uuid7_at(time.time()).int
            for offset, payload in enumerate(payloads):
                output.write(f"{UUID(int=first + offset)}\t{agent}\tlogcollector\tfile\t{payload}\n")
    return file


async def _copy_rate(system: System, file: Path, requests: int) -> float:
    await system.checkpoint()
    session = ("-h", str(system.cluster.socket_dir), "-p", "5432", "-U", ROLE, "-d", DATABASE)
    started = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        str(binary("psql")), "-q", *session, "-c", f"\\copy events from '{file}'"
    )
    if await process.wait():
        raise RuntimeError("psql failed")
    return requests * EVENTS_PER_REQUEST / (time.perf_counter() - started)


MEASUREMENT = Measurement(
    "stateless",
    (Figure("stateless_vs_copy", 0.85, 1.2, "ratio"), Figure("zstd_vs_plain", 1.0, 1.0, "ratio")),
    measure,
)
