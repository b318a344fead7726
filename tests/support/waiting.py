"""Wait for what another process or thread will have done."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from signal import SIGSTOP


def wait_until(condition: Callable[[], object], seconds: float = 20) -> float:
    """Return after how many seconds the condition held."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, "not within the time"
        time.sleep(0.05)
    return time.monotonic() - started


def pause(pid: int) -> None:
    """Stop a process and return when none of its threads runs any more, which is not when the signal is sent."""
    os.kill(pid, SIGSTOP)
    wait_until(lambda: {_state(thread) for thread in Path(f"/proc/{pid}/task").iterdir()} <= set("TZX"))


def _state(thread: Path) -> str:
    return (thread / "stat").read_text().rpartition(")")[2].split()[0]
