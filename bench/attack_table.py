"""Print the table of attacks in `docs/performance.md` from the raw data that `make bench` wrote to `build/`."""

import click
import msgspec

from bench.innocent import Comparison
from bench.report import RAW


class _Raw(msgspec.Struct):
    attacks: dict[str, Comparison]


class _Measured(msgspec.Struct):
    raw: _Raw


@click.command()
def main() -> None:
    """Print the ratio, its interval, and the p50 and p99 of each attack in milliseconds."""
    measured = msgspec.json.decode((RAW / "innocent.json").read_bytes(), type=_Measured)
    click.echo(table_of(measured.raw.attacks))


def table_of(attacks: dict[str, Comparison]) -> str:
    """Return a table in Markdown."""
    head = [
        "| attack | ratio | interval | p50, attacked and alone | p99, attacked and alone |",
        "|---|---|---|---|---|",
    ]
    return "\n".join([*head, *(_line(name, one) for name, one in attacks.items())])


def _line(name: str, one: Comparison) -> str:
    number, _, text = name.partition(" ")
    low, high = one.interval
    p50 = f"{one.attacked.p50_s * 1000:.1f}, {one.alone.p50_s * 1000:.1f}"
    p99 = f"{one.attacked.p99_s * 1000:.1f}, {one.alone.p99_s * 1000:.1f}"
    return f"| {number}, {text} | {one.ratio:.2f} | {low:.2f} to {high:.2f} | {p50} | {p99} |"


if __name__ == "__main__":
    main()
