"""Any folders of tests can be run together."""

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
