"""Run each measurement on a fresh system, print the figures, and write `build/bench.json`."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console

from bench import (
    changes,
    check,
    consoles,
    expansion,
    footprint,
    growth_events,
    growth_orders,
    herd,
    history,
    innocent,
    jetstream,
    logins,
    mixed,
    one_event,
    order,
    polls,
    rest,
    search,
    stateful,
    stateless,
    tail_lag,
    workers,
)
from bench.figures import FULL, QUICK, Measurement
from bench.fresh import measured_together
from bench.messages import compression
from bench.report import table_of, write_raw, write_report

MEASUREMENTS = (
    stateless.MEASUREMENT,
    stateless.ONE_WORKER,
    search.MEASUREMENT,
    tail_lag.MEASUREMENT,
    jetstream.MEASUREMENT,
    stateful.MEASUREMENT,
    one_event.MEASUREMENT,
    polls.MEASUREMENT,
    order.MEASUREMENT,
    changes.MEASUREMENT,
    logins.MEASUREMENT,
    rest.MEASUREMENT,
    herd.MEASUREMENT,
    workers.MEASUREMENT,
    mixed.MEASUREMENT,
    growth_events.MEASUREMENT,
    growth_orders.MEASUREMENT,
    expansion.MEASUREMENT,
    history.MEASUREMENT,
    footprint.MEASUREMENT,
    consoles.MEASUREMENT,
    innocent.MEASUREMENT,
)
BASELINE = click.Path(dir_okay=False, path_type=Path)
FIGURES = tuple(figure for measurement in MEASUREMENTS for figure in measurement.figures)


@click.command()
@click.argument("keys", nargs=-1, type=click.Choice([figure.key for figure in FIGURES]), metavar="[KEY]...")
@click.option("--quick", is_flag=True, help="Measure for a shorter time and less exactly.")
@click.option(
    "--check",
    "baseline",
    type=BASELINE,
    help="Measure a few costs, and fail if one is worse than in this file.",
)
@click.option(
    "--write-baseline", "new_baseline", type=BASELINE, help="Measure these costs, and write them to this file."
)
def main(keys: Sequence[str], *, quick: bool, baseline: Path | None, new_baseline: Path | None) -> None:
    """Measure the figures KEY, and all others of the same measurements; without KEY, measure every figure."""
    if baseline is not None:
        check.check(baseline)
    elif new_baseline is not None:
        check.write_baseline(new_baseline)
    else:
        _measure_all(keys, is_quick=quick)


def _measure_all(keys: Sequence[str], *, is_quick: bool) -> None:
    console = Console()
    started, load_average = time.monotonic(), os.getloadavg()[0]
    values: dict[str, float] = {}
    ratio = compression()
    meta: dict[str, object] = {"is_quick": is_quick, "load_average_before": load_average, "compression": ratio}
    console.print(f"zstd at level 1 compresses batches of 100 of the bench's events {ratio:.1f} times")
    for measurement in _chosen(keys):
        with console.status(f"measuring {measurement.name} …"):
            [(_, measured)] = measured_together([measurement], QUICK if is_quick else FULL)
        write_raw(measurement.name, measured)
        values.update(measured.values)
        if measurement is polls.MEASUREMENT:
            meta["polls_held"] = measured.raw["polls_held"]
        write_report(FIGURES, values, meta | {"seconds": round(time.monotonic() - started)})
    console.print(table_of(FIGURES, values))


def _chosen(keys: Sequence[str]) -> list[Measurement]:
    return [
        measurement
        for measurement in MEASUREMENTS
        if not keys or any(figure.key in keys for figure in measurement.figures)
    ]


if __name__ == "__main__":
    main()
