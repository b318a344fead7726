"""The memory of an idle worker."""

import asyncio

from bench.figures import Effort, Figure, Measured, Measurement
from bench.system import System

SETTLE_SECONDS = 2.0


async def measure(system: System, _effort: Effort) -> Measured:
    """Measure a worker that has just started."""
    await asyncio.sleep(SETTLE_SECONDS)
    return Measured({"rest_mb": system.resident_bytes() / 2**20}, {"unshared_mb": system.unshared_bytes() / 2**20})


MEASUREMENT = Measurement("rest", (Figure("rest_mb", 60, 40, "MB resident", is_most=True),), measure)
