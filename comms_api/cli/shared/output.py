"""Print the output of commands; texts from agents and other users cannot control the terminal."""

import codecs
import sys
from collections.abc import Iterable, Iterator, Sequence
from shutil import get_terminal_size
from typing import Any, BinaryIO

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from comms_api.text.printable import escape_controls, escape_json

WIDTH_MAXIMUM = 100_000
"""Wide enough for any row of a table."""


def say(text: object, *, is_error: bool = False) -> None:
    """Print one line."""
    click.echo(escape_controls(str(text)), err=is_error)


def print_json(content: Any) -> None:
    """Print JSON on several lines, with control characters escaped as in JSON."""
    click.echo(escape_json(msgspec.json.format(msgspec.json.encode(content), indent=2).decode()))


def cell(content: object) -> Text:
    """Return the content of a table's cell, without interpreting markup."""
    return Text(escape_controls(str(content)))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table with one line for each row, untruncated; a narrow terminal wraps the lines."""
    table = Table(*columns, box=None, pad_edge=False, collapse_padding=True)
    for row in rows:
        table.add_row(*map(cell, row))
    Console(width=WIDTH_MAXIMUM, height=1).print(table)  # without a height, a dumb terminal's width would count


def print_fitting(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table, or if the terminal is too narrow, a block for each row with one line for each column."""
    longest = [max(len(str(row[index])) for row in [columns, *rows]) for index in range(len(columns))]
    if not sys.stdout.isatty() or sum(longest) + len(longest) - 1 <= get_terminal_size().columns:
        print_table(columns, rows)
        return
    for row in rows:
        for name, content in zip(columns, row, strict=True):
            say(f"{name:{max(map(len, columns))}} {content}")
        say("")


def copy(pieces: Iterable[bytes], output: BinaryIO) -> None:
    """Write bytes unchanged to a file or a pipe, and escaped to a terminal."""
    output.writelines(_for_terminal(pieces) if output.isatty() else pieces)


def _for_terminal(pieces: Iterable[bytes]) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
    for piece in pieces:
        yield escape_controls(decoder.decode(piece), "\r\n").encode()
