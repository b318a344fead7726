"""Run one measurement while a profiler watches the server, and write a flame graph."""

import asyncio
import signal
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import click

from bench.__main__ import FIGURES, MEASUREMENTS
from bench.figures import FULL, Effort, Measured, Measurement
from bench.fresh import measured_together
from bench.system import System

SAMPLES_PER_SECOND = 250
WRITE_SECONDS = 30.0


@click.command()
@click.argument("key", type=click.Choice([figure.key for figure in FIGURES]))
def main(key: str) -> None:
    """Write `build/flame-KEY.svg`, a flame graph of the server during the measurement of the figure KEY."""
    [measurement] = [found for found in MEASUREMENTS if any(figure.key == key for figure in found.figures)]
    graph = Path("build") / f"flame-{key}.svg"
    graph.parent.mkdir(exist_ok=True)
    measured_together([Measurement("flame", (), partial(_measure, measurement, graph))], FULL)
    click.echo(graph)


async def _measure(measurement: Measurement, graph: Path, system: System, effort: Effort) -> Measured:
    options = ["--format", "flamegraph", "--rate", str(SAMPLES_PER_SECOND), "--subprocesses", "--output", str(graph)]
    profiler = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("py-spy")), "record", "--pid", str(system.server.process.pid), *options
    )
    try:
        return await measurement.measure(system, effort)
    finally:
        with suppress(ProcessLookupError):
            profiler.send_signal(signal.SIGINT)  # then it writes the graph
        async with asyncio.timeout(WRITE_SECONDS):
            await profiler.wait()


if __name__ == "__main__":
    main()
