"""Secrets: asked for at the terminal, and written to files that only their owner can read."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from comms_api.cli.shared.output import JsonObject
from comms_api.errors import ConfigurationError
from comms_api.private_files import replace_private

Function = TypeVar("Function", bound=Callable[..., Any])


def secret_output_option(name: str) -> Callable[[Function], Function]:
    """Return the option `--NAME-output`."""
    return click.option(
        f"--{name}-output",
        "output",
        type=click.Path(dir_okay=False, path_type=Path),
        help=f"File to write the {name} to, readable by its owner only; by default the {name} is shown.",
    )


def keep_secret(answer: JsonObject, name: str, output: Path | None) -> JsonObject:
    """Return an answer with its secret, or with the file to which it was written instead."""
    if output is None or answer.get(name) is None:
        return answer
    try:
        replace_private(output, answer[name].encode())
    except OSError as error:
        raise ConfigurationError(f"--{name}-output: {error}; the {name} is: {answer[name]}") from None
    return {member: value for member, value in answer.items() if member != name} | {f"{name}_file": str(output)}


def ask_secret(question: str, *, is_repeated: bool = False) -> str:
    """Ask for a secret at the terminal; raises `ConfigurationError` without one."""
    if not sys.stdin.isatty():
        raise ConfigurationError(f"{question}: name a file with it, or run this at a terminal, which asks for it")
    secret: str = click.prompt(question, hide_input=True, confirmation_prompt=is_repeated, err=True)
    return secret
