"""A test run leaves no process behind, however it ends."""

import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGKILL

import psutil
import pytest
from support.leftovers import VARIABLE, running
from support.waiting import PATIENCE, wait_until

HOLDING = Path(__file__).with_name("holding.py")
ROOT = Path(__file__).parents[2]
Pids = Callable[[], list[int]]


def is_alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@contextmanager
def held_run(
    folder: Path, test: str, *options: str, leftovers_seconds: float = PATIENCE
) -> Iterator[tuple[subprocess.Popen[str], Pids, str]]:
    """Run a held test; yield its process, a function that returns the announced process ids, and the run's name."""
    run, announced = uuid.uuid4().hex, folder / "announced"
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("COMMS_API_", "PYTEST_"))}
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, f"{HOLDING}::{test}"],
        cwd=ROOT,
        env=clean
        | {
            "TEST_ANNOUNCED": str(announced),
            "TEST_LEFTOVERS_PATIENCE": str(leftovers_seconds),
            VARIABLE: f"{os.environ[VARIABLE]} {run}",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )

    def pids() -> list[int]:
        wait_until(lambda: announced.exists() or process.poll() is not None)
        assert announced.exists(), process.communicate()[0]
        return [int(word) for word in announced.read_text().split()]

    try:
        yield process, pids, run
    finally:
        process.kill()
        process.communicate()


def assert_gone(pids: list[int], run: str) -> None:
    wait_until(lambda: not any(is_alive(pid) for pid in pids), says=lambda: [pid for pid in pids if is_alive(pid)])
    wait_until(lambda: not list(running(run)), says=lambda: list(running(run)))


@pytest.mark.parametrize("options", [(), ("-n1",)], ids=["alone", "with a worker"])
def test_a_run_that_is_killed_leaves_no_process(tmp_path: Path, options: tuple[str, ...]) -> None:
    with held_run(tmp_path, "test_hold", *options) as (process, announced, run):
        pids = announced()
        assert len(pids) == 4
        assert all(is_alive(pid) for pid in pids)
        process.send_signal(SIGKILL)
        assert_gone(pids, run)


def test_a_worker_that_is_killed_leaves_no_process(tmp_path: Path) -> None:
    with held_run(tmp_path, "test_hold", "-n1", "--max-worker-restart=0") as (process, announced, run):
        pids = announced()
        os.kill(pids[0], SIGKILL)
        assert process.wait(timeout=PATIENCE) != 0
        assert_gone(pids, run)


def test_a_test_that_fails_and_ends_nothing_leaves_no_process_and_is_named(tmp_path: Path) -> None:
    with held_run(tmp_path, "test_fail", leftovers_seconds=3) as (process, announced, run):
        pids = announced()
        output = process.communicate(timeout=PATIENCE)[0]
        assert "processes outlived the tests" in output
        assert str(pids[2]) in output
        assert_gone(pids[1:], run)
