"""What commands print: texts of agents and other users do nothing to the terminal."""

import codecs
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import click
import msgspec
from rich.text import Text

from comms_api.printable import escape_controls, escape_json


def say(text: object, *, is_error: bool = False) -> None:
    """Print one line."""
    click.echo(escape_controls(str(text)), err=is_error)


def print_json(content: Any) -> None:
    """Print JSON over several lines, in which control characters are escaped as JSON escapes them."""
    click.echo(escape_json(msgspec.json.format(msgspec.json.encode(content), indent=2).decode()))


def cell(content: object) -> Text:
    """Return the content of a cell of a table, of which nothing is taken for markup."""
    return Text(escape_controls(str(content)))


def copy(pieces: Iterable[bytes], output: BinaryIO) -> None:
    """Write bytes as they are to a file or a pipe, and so that they do nothing to a terminal."""
    output.writelines(_for_terminal(pieces) if output.isatty() else pieces)


def _for_terminal(pieces: Iterable[bytes]) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
    for piece in pieces:
        yield escape_controls(decoder.decode(piece), "\r\n").encode()
