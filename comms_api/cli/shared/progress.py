"""The progress of long transfers, on standard error and only at a terminal."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import DownloadColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn, TransferSpeedColumn

Item = TypeVar("Item")


def count_items(items: Iterable[Item]) -> Iterator[Item]:
    """Yield the items, and show their number."""
    return _count(items, lambda _: 1, TextColumn("{task.completed:.0f} items"))


def count_bytes(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the pieces, and show their size."""
    return _count(pieces, len, DownloadColumn(), TransferSpeedColumn())


def _count(items: Iterable[Item], measure: Callable[[Item], int], *columns: ProgressColumn) -> Iterator[Item]:
    console = Console(stderr=True)
    shown = Progress(*columns, TimeElapsedColumn(), console=console, transient=True, disable=not console.is_interactive)
    with shown:
        bar = shown.add_task("", total=None)
        for item in items:
            yield item
            shown.advance(bar, measure(item))
