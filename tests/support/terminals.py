"""Programs on a terminal of a width."""

import os
import pty
import subprocess
from contextlib import suppress


def on_terminal(program: list[str], columns: int) -> str:
    """Return a program's output on a terminal of some width."""
    ours, its = pty.openpty()
    narrow = os.environ | {"COLUMNS": str(columns), "TERM": "dumb"}
    with subprocess.Popen(program, stdout=its, stderr=its, env=narrow) as process:
        os.close(its)
        shown = b""
        with suppress(OSError):  # EIO: the other end is closed
            while read := os.read(ours, 65536):
                shown += read
    os.close(ours)
    assert process.returncode == 0, shown
    return shown.decode()
