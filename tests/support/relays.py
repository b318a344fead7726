"""`comms-api events relay` processes."""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from support.waiting import PATIENCE

COMMAND = [sys.executable, "-m", "comms_api", "events", "relay", "--to"]


def relay(variables: Mapping[str, str], target: str, *options: str) -> str:
    """Relay all waiting events, and return the output."""
    command = [*COMMAND, target, "--once", *options]
    ended = subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@contextmanager
def started_relay(variables: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Relay to PostgreSQL during the block."""
    process = subprocess.Popen([*COMMAND, "postgresql"], env=variables)
    try:
        yield process
    finally:
        process.kill()
        process.wait(timeout=PATIENCE)
