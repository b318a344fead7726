"""Events per second over HTTPS, durable before the answer, with the sink JetStream against the sink PostgreSQL.

One server of NATS with files that are synced before each acknowledgement, as PostgreSQL's log is before each commit. A
second node writes to it; both nodes get the same requests, by turns.
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
from bench.messages import event_lines, post, stateless
from bench.system import System, second_node

EVENTS_PER_REQUEST = 100
CONNECTIONS = 32
REQUESTS = 1920
"""In each round; a multiple of the number of connections."""

STREAM_BYTES = 8 * 2**30
START_SECONDS = 20.0


async def take(system: System, effort: Effort) -> Measured:
    """Alternate rounds of the one sink and the other."""
    lines = event_lines(EVENTS_PER_REQUEST)
    agents = await system.enroll(CONNECTIONS, "jetstream")
    requests = [post("/events/stateless", system.token(agent), stateless(agent, lines)) for agent in agents]
    count = effort.of(REQUESTS // CONNECTIONS)
    rates: Rates = {"postgresql": [], "jetstream": []}
    cpu: dict[str, dict[str, float]] = {}
    async with _nats_server(system.folder / "nats") as (url, nats), second_node(system, _settings(url)) as other:
        nodes = {"postgresql": system, "jetstream": other}
        for node in nodes.values():
            await drive(node, [[request] * 10 for request in requests])  # what is made at first use is made
        for _ in range(effort.rounds):
            for name, node in nodes.items():
                await system.checkpoint()
                before, events = node.cpu(), count * CONNECTIONS * EVENTS_PER_REQUEST
                before_nats = sum(nats.cpu_times()[:2])
                rates[name].append(await _rate(node, requests, count))
                used = (sum(nats.cpu_times()[:2]) - before_nats) / events * 1e6
                cpu[name] = node.cpu_since(before, events) | {"nats": used}
    # Round by round: what else this machine does changes slower than the turns.
    ratios = [ours / theirs for ours, theirs in zip(rates["jetstream"], rates["postgresql"], strict=True)]
    values = {"jetstream_vs_postgresql": statistics.median(ratios)}
    raw = {"events_per_second": rates, "medians": medians(rates), "connections": CONNECTIONS}
    return Measured(values, raw | {"cpu_us_per_event": cpu, "bytes_per_event": len(lines[0])})


def _settings(url: str) -> dict[str, str]:
    return {
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
async def _nats_server(folder: Path) -> AsyncIterator[tuple[str, psutil.Process]]:
    """Run a server for the block and yield where it is."""
    port, configuration = _configure(folder)
    program = Path(sysconfig.get_path("scripts")) / "nats-server"
    process = await asyncio.create_subprocess_exec(program, "-c", configuration, stdout=DEVNULL, stderr=DEVNULL)
    try:
        await _wait_for(port)
        yield f"nats://127.0.0.1:{port}", psutil.Process(process.pid)
    finally:
        process.terminate()
        await process.wait()


def _configure(folder: Path) -> tuple[int, Path]:
    folder.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    store = f'jetstream {{ store_dir: "{folder}", max_file_store: {STREAM_BYTES}, sync_interval: always }}'
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


MEASUREMENT = Measurement("jetstream", (Figure("jetstream_vs_postgresql", 0.5, 1.0, "ratio"),), take)
