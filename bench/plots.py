"""Draw `docs/performance/*.svg` from the raw data that `make bench` wrote to `build/`."""

from pathlib import Path
from typing import Any

import click
import msgspec

from bench.__main__ import FIGURES
from bench.figures import Figure
from bench.report import RAW
from bench.svg import Bar, Points, bars, curves

FOLDER = Path("docs/performance")
TOP_RATIO, LIMIT_RATIO = 1.6, 1.3
"""The top of the plots of growth, and the limit that they show."""


@click.command()
def main() -> None:
    """Draw the plots whose data exists; other plots stay unchanged."""
    draw(RAW, FOLDER)


def draw(measured: Path, folder: Path) -> None:
    """Draw the raw data of measurements into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    raw = {path.stem: msgspec.json.decode(path.read_bytes()) for path in measured.glob("*.json")}
    values = {key: value for results in raw.values() for key, value in results.get("values", {}).items()}
    if figure_bars := [_bar(figure, values[figure.key]) for figure in FIGURES if figure.key in values]:
        (folder / "figures.svg").write_text(bars("Figures relative to their limits (black: the goal)", figure_bars))
    for name, lines in _growth(raw).items():
        title = f"Cost in a grown system / in a small one, by {name} in the tables"
        (folder / f"growth-{name}.svg").write_text(curves(title, lines, TOP_RATIO, LIMIT_RATIO))


def _bar(figure: Figure, value: float) -> Bar:
    """Return a figure's bar. If less is better, half of the limit is drawn as twice as good."""
    sign = "≤" if figure.is_most else "≥"
    return Bar(figure.key, figure.share(value), figure.share(figure.aim), f"{value:.3g} ({sign} {figure.must:g})")


def _growth(raw: dict[str, Any]) -> dict[str, dict[str, Points]]:
    curves_of: dict[str, dict[str, Points]] = {}
    for name, parts in (("events", {"an event": None}), ("orders", {"a poll": "polls", "an order": "orders"})):
        if content := raw.get(f"growth_{name}"):
            points = content["raw"]["points"]
            curves_of[name] = {
                f"{item}: {cost}": [
                    (point["rows"], (point[part] if part else point)["ratios"][key]) for point in points
                ]
                for item, part in parts.items()
                for cost, key in (("CPU", "cpu_us"), ("time", "time_us"))
            }
    return curves_of


if __name__ == "__main__":
    main()
