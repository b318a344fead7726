"""The views of content for people: tables, fields and sentences."""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from shutil import get_terminal_size
from typing import Any, TypeAlias

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from comms_api.cli.shared.output import JsonObject, say
from comms_api.text.printable import escape_controls

WIDTH_MAXIMUM = 100_000
"""Wide enough for any row of a table."""

View: TypeAlias = Callable[[Any], None]
"""Prints content for people."""

Column: TypeAlias = str | Callable[[JsonObject], object]
"""The member of an item that a column shows, or a function of the item."""

Columns: TypeAlias = Mapping[str, Column]


def table(columns: Columns, wide: Columns | None = None) -> View:
    """Return a view of items as a table with these headings; a terminal that is wide enough also shows `wide`.

    If the terminal is too narrow for the table, each item is a block with one line for each column.
    """

    def show(items: Iterable[JsonObject]) -> None:
        found = list(items)
        if wide and sys.stdout.isatty():
            every = {**columns, **wide}
            rows = _rows(every, found)
            if _fits(tuple(every), rows):
                print_table(tuple(every), rows)
                return
        print_fitting(tuple(columns), _rows(columns, found))

    return show


def _rows(columns: Columns, items: Iterable[JsonObject]) -> list[list[str]]:
    return [[describe(_read(column, item)) for column in columns.values()] for item in items]


def _read(column: Column, item: JsonObject) -> object:
    return item.get(column) if isinstance(column, str) else column(item)


def fields(content: JsonObject) -> None:
    """Print the members of an object, one on each line."""
    width = max(map(len, content), default=0)
    for name, value in content.items():
        say(f"{name:{width}}  {describe(value)}")


def sentence(template: str) -> View:
    """Return a view of an object as a sentence, in which `{name}` is the value of a member."""
    return lambda content: say(template.format(**content))


def describe(value: object) -> str:
    """Return a JSON value as people read it."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case str():
            return value
        case list() if all(isinstance(part, str) for part in value):
            return ", ".join(value) or "-"
        case list() | dict():
            return msgspec.json.encode(value).decode() if value else "-"
        case _:
            return str(value)


def second(moment: str | None) -> str:
    """Return a time of the API to the second, in UTC."""
    return "-" if moment is None else moment[:19]


def cell(content: object) -> Text:
    """Return the content of a table's cell, without interpreting markup."""
    return Text(escape_controls(str(content)))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table with one line for each row, untruncated; a narrow terminal wraps the lines."""
    shown = Table(*columns, box=None, pad_edge=False, collapse_padding=True)
    for row in rows:
        shown.add_row(*map(cell, row))
    Console(width=WIDTH_MAXIMUM, height=1).print(shown)  # without a height, a dumb terminal's width would count


def print_fitting(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table, or if the terminal is too narrow, a block for each row with one line for each column."""
    if not sys.stdout.isatty() or _fits(columns, rows):
        print_table(columns, rows)
        return
    for row in rows:
        for name, content in zip(columns, row, strict=True):
            say(f"{name:{max(map(len, columns))}} {content}")
        say("")


def _fits(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> bool:
    longest = [max(len(escape_controls(str(row[index]))) for row in [columns, *rows]) for index in range(len(columns))]
    return sum(longest) + len(longest) - 1 <= get_terminal_size().columns
