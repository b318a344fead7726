"""The progress of long transfers, on standard error and only at a terminal."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)

Item = TypeVar("Item")


def count_items(items: Iterable[Item]) -> Iterator[Item]:
    """Yield the items, and show their number."""
    return _count(items, lambda _: 1, TextColumn("{task.completed:.0f} items"))


def count_bytes(pieces: Iterable[bytes], total: int | None = None) -> Iterator[bytes]:
    """Yield the pieces, and show their size, as a part of the total if it is known."""
    columns = (DownloadColumn(), TransferSpeedColumn())
    return _count(pieces, len, *([BarColumn()] if total else []), *columns, total=total)


def _count(
    items: Iterable[Item], measure: Callable[[Item], int], *columns: ProgressColumn, total: int | None = None
) -> Iterator[Item]:
    console = Console(stderr=True)
    shown = Progress(*columns, TimeElapsedColumn(), console=console, transient=True, disable=not console.is_interactive)
    with shown:
        bar = shown.add_task("", total=total)
        for item in items:
            yield item
            shown.advance(bar, measure(item))
