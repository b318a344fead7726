"""The tree of commands: every command that prints can print JSON, and the help is complete."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import click
import pytest
from support.waiting import PATIENCE

from comms_api.cli.main import COMMANDS, comms_api

WITHOUT_JSON: Mapping[str, str] = {
    "serve": "runs until it is stopped",
    "agent": "runs until it is stopped",
    "demo": "shows a demonstration",
    "migrate": "runs on a node",
    "backup": "runs on a node",
    "restore": "runs on a node",
    "completion": "prints a script for the shell",
    "events export": "writes lines of JSON",
    "events relay": "prints events as lines of JSON, or nothing",
    "users reset-password": "runs on a node",
    "files get": "prints the content of a file",
    "audit export": "prints lines of JSON",
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


PAGE = Path(__file__).parents[2] / "docs" / "operations" / "command-line.md"


def described_words(path: str) -> set[str]:
    """Return the words in backticks of the parts of the page about a command, and of those about every command."""
    noun = path.split(maxsplit=1)[0]
    without_blocks = re.sub(r"^```.*?^```", "", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    parts = re.split(r"^## ", without_blocks, flags=re.MULTILINE)
    about = [part for part in parts if noun in re.findall(r"[\w-]+", part.partition("\n")[0])]
    about += [part for part in parts if part.startswith(("Log in", "Output"))]
    return {word for span in re.findall(r"`([^`]+)`", "".join(about)) for word in re.findall(r"[\w-]+", span)}


def test_the_page_describes_every_command_and_every_option() -> None:
    for path, command in every_command(comms_api):
        options = {spelling for parameter in command.params for spelling in parameter.opts if spelling[:2] == "--"}
        missing = {path.split()[-1], *options} - {"--help"} - described_words(path)
        assert not missing, f"describe {missing} of `comms-api {path}` in {PAGE.name}"


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
