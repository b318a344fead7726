"""The cost of an event as the table grows to 50 million events."""

import time
from collections.abc import Sequence
from functools import partial
from uuid import UUID

from zstandard import ZstdCompressor

from bench.figures import Effort, Figure, Measured, Measurement
from bench.growth import FLEET, Filling, compare, schema_pair
from bench.load import drive
from bench.messages import event_batches, event_lines, stateless
from bench.system import System

SIZES = (1_000_000, 10_000_000, 50_000_000)
"""The events in the grown table."""

QUICK_SHARE = 0.01
CONNECTIONS = 32
EVENTS_PER_REQUEST = 100
REQUESTS = 1_000
"""Requests per round, each of another agent."""

CONTENT = ZstdCompressor(1).compress(stateless(UUID(int=0), event_lines(EVENTS_PER_REQUEST)))
FILLING = Filling(
    "event_batches",
    "id",
    "agent_id, events, streams, content",
    f"""($4::uuid[])[1 + (n * 7919) % cardinality($4::uuid[])], {EVENTS_PER_REQUEST},
        '{{"logcollector": ["file"]}}', '\\x{CONTENT.hex()}'""",
)


async def measure(system: System, effort: Effort) -> Measured:
    """Send one batch from each of many agents, to empty and to grown tables."""
    share = 1.0 if effort.share == 1 else QUICK_SHARE
    points = []
    async with schema_pair(system) as pair:
        acting = await pair.make("acting", int(FLEET * max(share, 0.1)))
        requests = event_batches(acting[:: len(acting) // REQUESTS], system.token, EVENTS_PER_REQUEST)
        for size in SIZES if share == 1 else SIZES[-1:]:
            started = time.perf_counter()
            await pair.fill(FILLING, int(size * share) // EVENTS_PER_REQUEST)
            fill_seconds = time.perf_counter() - started
            table = await pair.size("event_batches")
            compared = await compare(pair, effort, ["event_batches"], partial(_send, system, requests))
            points.append({"rows": int(size * share), "fill_seconds": fill_seconds, "table": table, **compared})
    return Measured(
        {"growth_events": max(points[-1]["ratios"].values())}, {"points": points, "agents": len(pair.fleet)}
    )


async def _send(system: System, requests: Sequence[bytes]) -> dict[str, float]:
    before = system.cpu()
    seconds = await drive(system, [requests[start::CONNECTIONS] for start in range(CONNECTIONS)])
    events = len(requests) * EVENTS_PER_REQUEST
    cpu = system.cpu_since(before, events)
    return {"cpu_us": cpu["server"] + cpu["postgresql"], "time_us": seconds / events * 1e6}


MEASUREMENT = Measurement(
    "growth_events",
    (Figure("growth_events", 1.3, 1.1, "ratio of cost", is_most=True),),
    measure,
)
