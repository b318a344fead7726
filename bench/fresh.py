"""Run measurements on a fresh system."""

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path

import uvloop

from bench.figures import Effort, Measured, Measurement
from bench.system import running_system

MEASUREMENT_SECONDS = 1800.0


def measured_together(measurements: Sequence[Measurement], effort: Effort) -> list[tuple[str, Measured]]:
    """Run the measurements one after the other on one fresh system."""
    with tempfile.TemporaryDirectory(prefix="comms-api-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # the embedded PostgreSQL of root runs as another user
        return uvloop.run(_run(measurements, effort, folder))


async def _run(measurements: Sequence[Measurement], effort: Effort, folder: Path) -> list[tuple[str, Measured]]:
    async with running_system(folder) as system, asyncio.timeout(MEASUREMENT_SECONDS):
        return [(measurement.name, await measurement.measure(system, effort)) for measurement in measurements]
