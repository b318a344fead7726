"""Take the measurements, each on a fresh system, print their figures, and write `build/bench.json`."""

import asyncio
import os
import tempfile
import time
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import click
import uvloop
from rich.console import Console

from bench import expansion, history, logins, one_event, order, polls, rest, stateful, stateless
from bench.figures import FULL, QUICK, Effort, Measured, Measurement
from bench.report import table_of, write_raw, write_report
from bench.system import running_system

MEASUREMENTS = (
    stateless.MEASUREMENT,
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
SERVERS = tuple(server for server in ("hypercorn", "granian") if find_spec(server))


@click.command()
@click.argument("keys", nargs=-1, type=click.Choice([figure.key for figure in FIGURES]), metavar="[KEY]...")
@click.option("--quick", is_flag=True, help="Measure for a shorter time, less exactly.")
@click.option("--server", type=click.Choice(SERVERS), help="Measure with this ASGI server only.")
def main(keys: Sequence[str], *, quick: bool, server: str | None) -> None:
    """Measure the figures KEY, and what comes with them, or all figures."""
    console = Console()
    started, load_average = time.monotonic(), os.getloadavg()[0]
    values: dict[str, dict[str, float]] = {}
    meta: dict[str, object] = {"is_quick": quick, "load_average_before": load_average}
    for name, measurement in product([server] if server else SERVERS, _chosen(keys)):
        with console.status(f"measuring {measurement.name} of {name} …"):
            measured = _measure(measurement, QUICK if quick else FULL, name)
        write_raw(f"{name}/{measurement.name}", measured)
        values.setdefault(name, {}).update(measured.values)
        if measurement is polls.MEASUREMENT:
            meta["polls_held"] = measured.raw["polls_held"]
    console.print(table_of(FIGURES, values))
    write_report(FIGURES, values, meta | {"seconds": round(time.monotonic() - started)})


def _chosen(keys: Sequence[str]) -> list[Measurement]:
    return [
        measurement
        for measurement in MEASUREMENTS
        if not keys or any(figure.key in keys for figure in measurement.figures)
    ]


def _measure(measurement: Measurement, effort: Effort, server: str) -> Measured:
    with tempfile.TemporaryDirectory(prefix="comms-api-bench-") as made:
        folder = Path(made)
        folder.chmod(0o755)  # the embedded PostgreSQL of root runs as another user
        return uvloop.run(_take(measurement, effort, folder, server))


async def _take(measurement: Measurement, effort: Effort, folder: Path, server: str) -> Measured:
    async with running_system(folder, server) as system, asyncio.timeout(MEASUREMENT_SECONDS):
        return await measurement.take(system, effort)


if __name__ == "__main__":
    main()
