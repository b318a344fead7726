"""Run programs on a terminal whose width the test chooses."""

import os
import pty
import subprocess
from contextlib import suppress


def on_terminal(program: list[str], columns: int, kind: str = "dumb") -> str:
    """Run a program on a terminal of a kind (`TERM`) with this many columns, and return its output."""
    screen, terminal = pty.openpty()
    narrow = os.environ | {"COLUMNS": str(columns), "TERM": kind}
    with subprocess.Popen(program, stdout=terminal, stderr=terminal, env=narrow) as process:
        os.close(terminal)
        shown = b""
        with suppress(OSError):  # EIO: the other end is closed
            while read := os.read(screen, 65536):
                shown += read
    os.close(screen)
    assert process.returncode == 0, shown
    return shown.decode()
