"""Events per second over HTTPS with the sink JetStream, compared with the sink PostgreSQL and with rare syncs.

One NATS server syncs its files before each acknowledgement, as PostgreSQL syncs its log before each commit. Another
syncs every ten seconds. Each has a node that writes to it, and all nodes receive the same requests in turn.
"""

import asyncio
import os
import socket
import statistics
import sysconfig
import time
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

from bench.figures import Effort, Figure, Measured, Measurement, Rates, medians
from bench.load import drive
from bench.messages import event_batches
from bench.system import System, second_node

EVENTS_PER_REQUEST = 100
CONNECTIONS = 32
REQUESTS = 1920
"""Requests per round; a multiple of the number of connections."""

STREAM_BYTES = 8 * 2**30
START_SECONDS = 20.0


async def measure(system: System, effort: Effort) -> Measured:
    """Alternate rounds of the sinks."""
    agents = await system.enroll(CONNECTIONS, "jetstream")
    requests = event_batches(agents, system.token, EVENTS_PER_REQUEST)
    count = effort.of(REQUESTS // CONNECTIONS)
    cpu: dict[str, dict[str, float]] = {}
    async with (
        _node_with_nats(system, "jetstream", "always") as always,
        _node_with_nats(system, "jetstream_10s", '"10s"') as rarely,
    ):
        nodes = {"postgresql": (system, None), "jetstream": always, "jetstream_10s": rarely}
        rates: Rates = {name: [] for name in nodes}
        for node, _ in nodes.values():
            await drive(node, [[request] * 10 for request in requests])  # warm up
        for _ in range(effort.rounds):
            for name, (node, nats) in nodes.items():
                await system.checkpoint()
                before, before_nats = node.cpu(), _cpu_seconds(nats)
                rates[name].append(await _rate(node, requests, count))
                events = count * CONNECTIONS * EVENTS_PER_REQUEST
                used = (_cpu_seconds(nats) - before_nats) / events * 1e6
                cpu[name] = node.cpu_since(before, events) | {"nats": used}
    values = {
        "jetstream_vs_postgresql": _ratio(rates, "jetstream", "postgresql"),
        "jetstream_always_vs_10s": _ratio(rates, "jetstream", "jetstream_10s"),
    }
    raw = {"events_per_second": rates, "medians": medians(rates), "connections": CONNECTIONS}
    return Measured(values, raw | {"cpu_us_per_event": cpu})


def _ratio(rates: Rates, numerator: str, denominator: str) -> float:
    # Rounds alternate, because the machine's other load changes more slowly.
    return statistics.median(a / b for a, b in zip(rates[numerator], rates[denominator], strict=True))


def _cpu_seconds(process: psutil.Process | None) -> float:
    return sum(process.cpu_times()[:2]) if process else 0.0


@asynccontextmanager
async def _node_with_nats(system: System, name: str, sync: str) -> AsyncIterator[tuple[System, psutil.Process]]:
    """Run a NATS server and a node that publishes to it for the block."""
    async with (
        _nats_server(system.folder / name, sync) as (url, nats),
        second_node(system, _settings(name, url)) as node,
    ):
        yield node, nats


def _settings(name: str, url: str) -> dict[str, str]:
    return {
        "COMMS_API_NODE_NAME": name,
        "COMMS_API_EVENTS_SINK": "jetstream",
        "COMMS_API_NATS_SERVERS": url,
        "COMMS_API_NATS_REPLICAS": "1",
        "COMMS_API_NATS_STREAM_BYTES": str(STREAM_BYTES),
    }


async def _rate(node: System, requests: Sequence[bytes], count: int) -> float:
    os.sync()
    seconds = await drive(node, [[request] * count for request in requests])
    return len(requests) * count * EVENTS_PER_REQUEST / seconds


@asynccontextmanager
async def _nats_server(folder: Path, sync_interval: str) -> AsyncIterator[tuple[str, psutil.Process]]:
    """Run a server for the block; yield its URL and its process."""
    port, configuration = _configure(folder, sync_interval)
    program = Path(sysconfig.get_path("scripts")) / "nats-server"
    process = await asyncio.create_subprocess_exec(program, "-c", configuration, stdout=DEVNULL, stderr=DEVNULL)
    try:
        await _wait_for(port)
        yield f"nats://127.0.0.1:{port}", psutil.Process(process.pid)
    finally:
        process.terminate()
        await process.wait()


def _configure(folder: Path, sync_interval: str) -> tuple[int, Path]:
    folder.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    store = f'jetstream {{ store_dir: "{folder}", max_file_store: {STREAM_BYTES}, sync_interval: {sync_interval} }}'
    configuration = folder / "nats.conf"
    configuration.write_text(f"listen: 127.0.0.1:{port}\n{store}\n")
    return port, configuration


async def _wait_for(port: int) -> None:
    ends_at = time.monotonic() + START_SECONDS
    while time.monotonic() < ends_at:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        await asyncio.sleep(0.1)
    raise RuntimeError("nats-server did not start")


FIGURES = (Figure("jetstream_vs_postgresql", 0.5, 1.0, "ratio"), Figure("jetstream_always_vs_10s", 0.1, 1.0, "ratio"))
MEASUREMENT = Measurement("jetstream", FIGURES, measure)
