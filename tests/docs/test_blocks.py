"""Every code block in the documents works: settings load, JSON parses, command lines are valid."""

import re
import shlex
import sqlite3
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import click
import msgspec
import pytest
from sqlalchemy import make_url
from support.databases import run_sql

from comms_api.cli.main import comms_api
from comms_api.settings import PREFIX, Settings, load_settings

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
PAGES += [page for folder in ("docs", "examples", "deploy", "certs") for page in sorted((ROOT / folder).rglob("*.md"))]
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
INLINE_SETTING = re.compile(r"`([a-z_]+ = [^`\n]+)`")
PROGRAM_END = re.compile(r"^(\||&|>|<|;|#|&&|\|\|)")


class Block(NamedTuple):
    """A code block and its page."""

    page: Path
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}: {self.text.strip().splitlines()[0][:50]}"


BLOCKS = [Block(page, found[2], found[3]) for page in PAGES for found in FENCE.finditer(page.read_text())]


def blocks(language: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == language], ids=str)


@blocks("toml")
def test_settings_load(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "comms-api.toml"
    file.write_text(block.text)
    load_settings({}, file)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_settings_within_a_sentence_load(page: Path, tmp_path: Path) -> None:
    file = tmp_path / "comms-api.toml"
    for line in INLINE_SETTING.findall(page.read_text()):
        try:
            [name] = tomllib.loads(line)
        except tomllib.TOMLDecodeError:
            continue  # a setting of PostgreSQL, whose values have no quotes
        assert name in Settings.__struct_fields__, line
        if name != "client_certificates":  # needs a second setting
            file.write_text(line)
            load_settings({}, file)


@blocks("json")
def test_json_parses(block: Block) -> None:
    assert msgspec.json.decode(b"[" + re.sub(rb"\}\n\{", b"},{", block.text.strip().encode()) + b"]")


@blocks("sql")
def test_sql_runs(block: Block, own_database: str) -> None:
    if "ALTER DATABASE comms_api" in block.text:
        statements = block.text.replace("comms_api SET", f"{make_url(own_database).database} SET")
        run_sql(make_url(own_database), *statements.strip().splitlines())
        return
    with closing(sqlite3.connect(":memory:")) as database:
        database.executescript(block.text)


@pytest.fixture
def own_database(new_database: Callable[[], str]) -> str:
    """A database for one test only."""
    return new_database()


@blocks("console")
def test_programs_of_a_session_exist_and_their_json_parses(block: Block) -> None:
    for line in block.text.splitlines():
        if line.startswith("$ python3 "):
            assert (block.page.parent / line.split()[2]).is_file(), line
        elif line.startswith("{"):
            msgspec.json.decode(line)


@blocks("python")
def test_python_compiles(block: Block) -> None:
    compile(block.text, str(block.page), "exec")


@blocks("sh")
def test_the_shell_understands_the_block(block: Block) -> None:
    checked = subprocess.run(["/bin/bash", "-n"], input=block.text, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr


@blocks("sh")
def test_command_lines_and_variables_exist(block: Block) -> None:
    for words in simple_commands(block.text):
        while words and re.match(r"\w+=", words[0]):
            variable = words.pop(0).partition("=")[0]
            setting = variable.removeprefix(PREFIX).lower()
            assert not variable.startswith(PREFIX) or setting in Settings.__struct_fields__, variable
        if words and Path(words[0]).name == "comms-api":
            parse(comms_api, words[1:])
        if words[:1] == ["make"]:
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), words


def simple_commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each command in a block."""
    for line in text.replace("\\\n", " ").splitlines():
        words: list[str] = []
        for word in shlex.split(re.sub(r"\s#.*", "", line).removeprefix("#"), posix=True):
            if PROGRAM_END.match(word):
                yield words
                words = []
            else:
                words.append(word)
        yield words


def parse(command: click.Command, words: list[str]) -> None:
    """Raise click's error for an unknown option or command; files need not exist."""
    context = click.Context(command)
    if isinstance(command, click.Group):
        child = command.get_command(context, words[0])
        assert child is not None, words
        parse(child, words[1:])
    else:
        command.make_parser(context).parse_args(words)


def test_the_documents_have_blocks_of_every_kind() -> None:
    assert {"toml", "json", "sh", "sql", "console"} <= {block.language for block in BLOCKS}
