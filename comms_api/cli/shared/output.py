"""Print the output of commands; texts from agents and other users cannot control the terminal."""

import codecs
from collections.abc import Iterable, Iterator
from importlib import import_module
from typing import Any, BinaryIO, Literal, TypeAlias

import click
import msgspec

from comms_api.cli.shared.progress import count_bytes
from comms_api.errors import ConfigurationError
from comms_api.text.printable import escape_controls, escape_json

JsonObject: TypeAlias = dict[str, Any]

OUTPUT_OPTIONS = (
    click.Option(["--json", "form"], flag_value="json", help="Print JSON for programs."),
    click.Option(["--ndjson", "form"], flag_value="ndjson", help="Print each item as a line of JSON."),
    click.Option(["--jq", "program"], metavar="PROGRAM", help="Print the results of a jq program."),
)


class Form(msgspec.Struct, frozen=True):
    """The values of `OUTPUT_OPTIONS`: a form for programs, or None for people."""

    form: Literal["json", "ndjson"] | None
    program: str | None

    @property
    def is_for_people(self) -> bool:
        """Whether tables and sentences are printed."""
        return self.form is None and self.program is None

    def print(self, content: Any, *, is_stream: bool = False) -> None:
        """Print JSON content or an iterator of items for programs; each item of a stream is a line."""
        if isinstance(content, Iterator) and not is_stream and self.form != "ndjson":
            content = list(content)
        is_split = is_stream or (self.form == "ndjson" and isinstance(content, Iterator | list))
        for part in content if is_split else [content]:
            if self.program is not None:
                for line in _run_jq(self.program, part):
                    click.echo(line)
            elif is_split or self.form == "ndjson":
                click.echo(_as_line(part))
            else:
                print_json(part)


def _run_jq(program: str, content: Any) -> Iterator[str]:
    """Yield the results of a jq program as JSON, but texts as they are, as `jq -r` does."""
    try:
        jq: Any = import_module("jq")
    except ImportError:
        raise ConfigurationError(
            "--jq needs the package jq: pip install 'comms-api[jq]', or pipe --json to jq"
        ) from None
    try:
        for result in jq.compile(program).input_text(msgspec.json.encode(content).decode()):
            yield escape_controls(result, "\n\t") if isinstance(result, str) else _as_line(result)
    except ValueError as error:
        raise click.BadParameter(escape_controls(str(error)), param_hint="--jq") from None


def say(text: object, *, is_error: bool = False) -> None:
    """Print one line."""
    click.echo(escape_controls(str(text)), err=is_error)


class Notice:
    """Prints a lasting condition to standard error when it begins or changes."""

    _shown = ""

    def show(self, condition: str) -> None:
        """Print a condition, unless it was shown last; "" ends it."""
        if condition and condition != self._shown:
            say(condition, is_error=True)
        self._shown = condition


def print_json(content: Any) -> None:
    """Print JSON on several lines, with control characters escaped as in JSON."""
    click.echo(escape_json(msgspec.json.format(msgspec.json.encode(content), indent=2).decode()))


def _as_line(content: Any) -> str:
    return escape_json(msgspec.json.encode(content).decode())


def copy(pieces: Iterable[bytes], output: BinaryIO) -> None:
    """Write bytes unchanged to a file or a pipe, with their progress, and escaped to a terminal."""
    output.writelines(_for_terminal(pieces) if output.isatty() else count_bytes(pieces))


def _for_terminal(pieces: Iterable[bytes]) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
    for piece in pieces:
        yield escape_controls(decoder.decode(piece), "\r\n").encode()
