"""The package in an empty environment, as users install it."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from support.waiting import PATIENCE

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / ".venv" / "package" / "bin" / "comms-api"
PINNED = re.compile(r"^([\w.-]+)(?:\[\w+\])?==(\S+) \\$", re.MULTILINE)
"""A package that every platform needs; those with a condition are left out."""


@pytest.fixture(scope="module", autouse=True)
def package() -> None:
    installs_seconds = 5 * PATIENCE
    subprocess.run(["make", "sbom"], cwd=ROOT, check=True, timeout=installs_seconds)  # noqa: S607 - make, from PATH


def test_it_serves_a_fleet(tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [PROGRAM, "demo"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_its_bill_of_materials_lists_the_pinned_packages() -> None:
    bill = json.loads((ROOT / "build" / "sbom.json").read_text())
    assert bill["bomFormat"] == "CycloneDX"
    assert bill["metadata"]["component"]["name"] == "comms-api"
    listed = {(_normal(part["name"]), part["version"]) for part in bill["components"]}
    pinned = PINNED.findall((ROOT / "requirements" / "run.txt").read_text())
    assert pinned
    assert {(_normal(name), version) for name, version in pinned} <= listed


def test_its_licenses_are_known_and_permit_every_use() -> None:
    licenses = (ROOT / "build" / "licenses.txt").read_text()
    assert "PyJWT" in licenses
    assert "UNKNOWN" not in licenses
    assert "GPL" not in licenses


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
