"""The version is written in `pyproject.toml` only; everything else reads it from the installed package."""

import json
import tomllib
from pathlib import Path

from click.testing import CliRunner

from comms_api import __version__
from comms_api.cli.main import comms_api

ROOT = Path(__file__).parents[2]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def test_the_package_has_the_version_of_the_project() -> None:
    assert __version__ == VERSION, "install the package again: the version has changed since"


def test_the_command_line_and_the_descriptions_show_it() -> None:
    assert CliRunner().invoke(comms_api, ["--version"]).output == f"comms-api, version {VERSION}\n"
    for file in (ROOT / "docs" / "reference" / "openapi").glob("*.json"):
        assert json.loads(file.read_text())["info"]["version"] == VERSION, file.name


def test_no_module_repeats_it() -> None:
    modules = [path for path in (ROOT / "comms_api").rglob("*.py") if path.name != "samples.py"]
    assert [path for path in modules if f'"{VERSION}"' in path.read_text()] == []
