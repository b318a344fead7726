"""Kill every process that a test run has started, however the run ends.

A run writes its name to `TEST_RUN`, which its child processes inherit. PostgreSQL is a daemon with a different
environment, so its processes are recognised by their working directory. `Guard` starts a process that waits until the
run ends, even by SIGKILL, and then ends the processes of the run.
"""

import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGTERM, Signals

import psutil

VARIABLE = "TEST_RUN"
TERMINATE_SECONDS = 10.0
GIVE_UP_SECONDS = 60.0
PAUSE_SECONDS = 0.1
IDLE_SCANS = 3
"""A starting process may not have its name yet, so one empty list proves nothing."""


class Guard:
    """A process that outlives this run and kills the processes that the run leaves behind."""

    def __init__(self) -> None:
        self.run = uuid.uuid4().hex
        self._folders: list[Path] = []
        clean = {name: value for name, value in os.environ.items() if name != VARIABLE}
        # A test run within a test run belongs to both.
        os.environ[VARIABLE] = f"{os.environ.get(VARIABLE, '')} {self.run}".strip()
        self._process = subprocess.Popen(
            [sys.executable, __file__, self.run],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=clean,
            start_new_session=True,
        )

    def watch(self, folder: Path, *, scratch: bool = False) -> None:
        """Treat processes that work in a folder as processes of the run; remove a scratch folder after the run."""
        self._folders.append(folder)
        assert self._process.stdin is not None
        self._process.stdin.write(f"{'scratch' if scratch else 'kept'} {folder}\n".encode())
        self._process.stdin.flush()

    def leftovers(self) -> list[psutil.Process]:
        """Return the live processes of this run."""
        return list(running(self.run, self._folders))

    def close(self) -> None:
        """Kill the remaining processes, and end the guard."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def running(run: str, folders: Iterable[Path] = ()) -> Iterator[psutil.Process]:
    """Yield the live processes of a run, except this process."""
    homes = [home for folder in folders for home in _homes(folder)]
    for process in psutil.process_iter():
        try:
            is_alive = process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE
            if is_alive and (run in process.environ().get(VARIABLE, "") or _works_in(process, homes)):
                yield process
        except (psutil.Error, OSError):
            continue  # it has ended, or belongs to another user


def _works_in(process: psutil.Process, homes: Iterable[Path]) -> bool:
    # The kernel appends " (deleted)" to the name of a removed folder.
    return process.name() == "postgres" and any(Path(process.cwd()).is_relative_to(home) for home in homes)


def _homes(folder: Path) -> Iterator[Path]:
    """Yield a folder, and the folders elsewhere that contain the embedded databases of its data directories."""
    yield folder
    yield from (link.resolve() for link in folder.rglob("postgres") if link.is_symlink())


def end(run: str, folders: Iterable[Path]) -> None:
    """End the processes of a run: by SIGTERM, so that PostgreSQL releases its memory, and after a while by SIGKILL."""
    started, idle = time.monotonic(), 0
    terminated: set[psutil.Process] = set()
    while idle < IDLE_SCANS and time.monotonic() - started < GIVE_UP_SECONDS:
        left = set(running(run, folders))
        idle = 0 if left else idle + 1
        is_late = time.monotonic() - started > TERMINATE_SECONDS
        for process in left if is_late else left - terminated:
            _send(process, *((SIGKILL,) if is_late else (SIGTERM, SIGCONT)))
        terminated |= left
        time.sleep(PAUSE_SECONDS)


def _send(process: psutil.Process, *signals: Signals) -> None:
    for number in signals:
        try:
            process.send_signal(number)
        except psutil.Error:
            return


def _guard(run: str) -> None:
    """Wait until the run closes our standard input, which the kernel does if the run was killed."""
    lines = [line.rstrip("\n").split(" ", 1) for line in sys.stdin]
    end(run, [Path(folder) for _, folder in lines])
    for kind, folder in lines:
        if kind == "scratch":
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    _guard(sys.argv[1])
