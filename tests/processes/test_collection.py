"""Any test folders can run together, also with the load test."""

import os
import subprocess
import sys
from pathlib import Path

from support.waiting import PATIENCE

TESTS = Path(__file__).parents[1]


def test_folders_are_collected_together_in_any_order() -> None:
    folders = sorted((path for path in TESTS.iterdir() if list(path.glob("test_*.py"))), reverse=True)
    assert folders.index(TESTS / "key_requests") < folders.index(TESTS / "cluster")
    command = [sys.executable, "-m", "pytest", "--collect-only", "-qq", "-p", "no:cacheprovider", *folders]
    done = subprocess.run(command, cwd=TESTS.parent, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout


def test_the_load_test_finds_what_it_shares_with_the_tests() -> None:
    program = [sys.executable, "-m", "load", "--help"]
    done = subprocess.run(
        program, cwd=TESTS, env=os.environ | {"PYTHONPATH": str(TESTS)}, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
