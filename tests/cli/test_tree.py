"""The tree of commands: every command that prints can print JSON, and the help is complete."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping

import click
import pytest
from support.waiting import PATIENCE

from comms_api.cli.main import COMMANDS, comms_api

WITHOUT_JSON: Mapping[str, str] = {
    "serve": "runs until it is stopped",
    "agent": "runs until it is stopped",
    "demo": "shows a demonstration",
    "migrate": "runs on a node",
    "completion": "prints a script for the shell",
    "events relay": "prints events as lines of JSON, or nothing",
    "users reset-password": "runs on a node",
    "commands results": "prints CSV or lines of JSON",
}
"""The commands without `--json`, and the reasons."""


def every_command(command: click.Command, *path: str) -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        yield " ".join(path), command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        child = command.get_command(context, name)
        assert child is not None
        yield from every_command(child, *path, name)


def test_every_command_that_prints_can_print_json() -> None:
    for path, command in every_command(comms_api):
        options = {spelling for parameter in command.params for spelling in parameter.opts}
        has_json = {"--json", "--ndjson", "--jq"} <= options
        assert has_json is (path not in WITHOUT_JSON), path


def test_the_list_of_commands_has_the_first_line_of_each_help() -> None:
    context = click.Context(comms_api)
    for name, entry in COMMANDS.items():
        command = comms_api.get_command(context, name)
        assert command is not None
        assert entry.help == (command.help or "").splitlines()[0], name


def run(program: list[str], **variables: str) -> str:
    variables |= {"PATH": os.environ["PATH"]}
    return subprocess.run(program, capture_output=True, text=True, timeout=PATIENCE, check=True, env=variables).stdout


def test_the_list_of_commands_imports_no_command() -> None:
    program = (
        "import sys; from comms_api.cli.main import main; sys.argv[1:] = ['--help']\n"
        "try: main()\nfinally: print(*sys.modules)"
    )
    imported = run([sys.executable, "-c", program]).split()
    assert {"httpx", "rich", "sqlalchemy", "comms_api.cli.serve"} & set(imported) == set()


@pytest.mark.parametrize(
    ("shell", "begins"), [("bash", "_comms_api_completion"), ("zsh", "#compdef"), ("fish", "function")]
)
def test_a_shell_completes_commands(shell: str, begins: str) -> None:
    program = [sys.executable, "-m", "comms_api"]
    assert run([*program, "completion", shell]).lstrip().startswith(begins)
    position = "s" if shell == "fish" else "2"
    found = run(
        program, _COMMS_API_COMPLETE=f"{shell}_complete", COMP_WORDS="comms-api commands s", COMP_CWORD=position
    )
    assert {"send", "show", "sign"} <= set(re.split(r"[\s,]", found))
