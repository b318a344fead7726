"""Take the measurements, each on a fresh system, print their figures, and write `build/bench.json`."""

import asyncio
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import click
import uvloop
from rich.console import Console

from bench import expansion, history, jetstream, logins, one_event, order, polls, rest, stateful, stateless
from bench.figures import FULL, QUICK, Effort, Measured, Measurement
from bench.report import table_of, write_raw, write_report
from bench.system import running_system

MEASUREMENTS = (
    stateless.MEASUREMENT,
    jetstream.MEASUREMENT,
    stateful.MEASUREMENT,
    one_event.MEASUREMENT,
    polls.MEASUREMENT,
    order.MEASUREMENT,
    logins.MEASUREMENT,
    rest.MEASUREMENT,
    expansion.MEASUREMENT,
    history.MEASUREMENT,
)
FIGURES = tuple(figure for measurement in MEASUREMENTS for figure in measurement.figures)
MEASUREMENT_SECONDS = 900.0


@click.command()
@click.argument("keys", nargs=-1, type=click.Choice([figure.key for figure in FIGURES]), metavar="[KEY]...")
@click.option("--quick", is_flag=True, help="Measure for a shorter time, less exactly.")
def main(keys: Sequence[str], *, quick: bool) -> None:
    """Measure the figures KEY, and what comes with them, or all figures."""
    console = Console()
    started, load_average = time.monotonic(), os.getloadavg()[0]
    measured: dict[str, Measured] = {}
    for measurement in _chosen(keys):
        with console.status(f"measuring {measurement.name} …"):
            measured[measurement.name] = _measure(measurement, QUICK if quick else FULL)
        write_raw(measurement.name, measured[measurement.name])
    values = {key: value for one in measured.values() for key, value in one.values.items()}
    console.print(table_of(FIGURES, values))
    meta: dict[str, object] = {
        "seconds": round(time.monotonic() - started),
        "is_quick": quick,
        "load_average_before": load_average,
    }
    if polls.MEASUREMENT.name in measured:
        meta["polls_held"] = measured[polls.MEASUREMENT.name].raw["polls_held"]
    write_report(FIGURES, values, meta)


def _chosen(keys: Sequence[str]) -> list[Measurement]:
    return [
        measurement
        for measurement in MEASUREMENTS
        if not keys or any(figure.key in keys for figure in measurement.figures)
    ]


def _measure(measurement: Measurement, effort: Effort) -> Measured:
    with tempfile.TemporaryDirectory(prefix="comms-api-bench-") as made:
        folder = Path(made)
        folder.chmod(0o755)  # the embedded PostgreSQL of root runs as another user
        return uvloop.run(_take(measurement, effort, folder))


async def _take(measurement: Measurement, effort: Effort, folder: Path) -> Measured:
    async with running_system(folder) as system, asyncio.timeout(MEASUREMENT_SECONDS):
        return await measurement.take(system, effort)


if __name__ == "__main__":
    main()
