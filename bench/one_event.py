"""The cost of one small request."""

from bench.figures import Effort, Figure, Measured, Measurement
from bench.load import drive
from bench.messages import event_batches
from bench.system import System

CONNECTIONS = 32
REQUESTS = 300
"""Requests per connection."""


async def measure(system: System, effort: Effort) -> Measured:
    """Send one event per request over keep-alive connections."""
    agents = await system.enroll(CONNECTIONS, "one-event")
    encoded = event_batches(agents, system.token, 1)
    await drive(system, [[request] * 20 for request in encoded])
    each = effort.of(REQUESTS)
    before = system.cpu()
    seconds = await drive(system, [[request] * each for request in encoded])
    total = each * CONNECTIONS
    cpu = system.cpu_since(before, total)
    raw = {"requests": total, "requests_per_second": total / seconds, "cpu_us_per_request": cpu}
    return Measured({"one_event_rps_per_core": 1e6 / cpu["server"]}, raw)


MEASUREMENT = Measurement(
    "one_event", (Figure("one_event_rps_per_core", 3000, 6000, "requests per second of server CPU"),), measure
)
