"""Wait for another process or thread."""

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from signal import SIGSTOP

PATIENCE = float(os.environ.get("TEST_PATIENCE", "120"))
"""The seconds that a test waits for an event before it fails: many, because a busy machine is slow."""


def wait_until(
    condition: Callable[[], object],
    *,
    says: Callable[[], object] = str,
    pause_seconds: float = 0.05,
    patience_seconds: float = PATIENCE,
) -> float:
    """Wait for the condition and return the seconds that it took; `says` explains a failure."""
    started = time.monotonic()
    while not condition():
        waited = time.monotonic() - started
        assert waited < patience_seconds, f"the condition did not hold within {patience_seconds:g} s; {says()}"
        time.sleep(pause_seconds)
    return time.monotonic() - started


async def until(condition: Callable[[], object]) -> None:
    """Wait for the condition while other tasks of the loop run."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - other processes have no events of this loop
            await asyncio.sleep(0.01)


async def settle() -> None:
    """Let every ready task run."""
    for _ in range(10):
        await asyncio.sleep(0)


def pause(pid: int) -> None:
    """Stop a process, and return when all its threads have stopped, which is later than the signal."""
    os.kill(pid, SIGSTOP)
    wait_until(lambda: {_state(thread) for thread in Path(f"/proc/{pid}/task").iterdir()} <= set("TZX"))


def _state(thread: Path) -> str:
    return (thread / "stat").read_text().rpartition(")")[2].split()[0]
