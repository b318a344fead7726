"""The shell blocks of the README and the tutorial do what the pages show.

Each `sh` block runs in its own terminal, exactly as printed, in a folder that looks like a new clone. A `text` block
after it shows lines of its output, in which `…` stands for any text. A comment before a block says that it keeps
running until the end of the page, or that the test does not run it, and why.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from signal import SIGINT, SIGKILL
from typing import NamedTuple

import pytest
from support.waiting import PATIENCE, wait_until

ROOT = Path(__file__).parents[2]
PART = re.compile(
    r"^<!-- (?P<mark>keeps running|not run: [^\n]+) -->$|^```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
LOOPBACK = """
import fcntl, socket, struct, sys
SIOCSIFFLAGS, IFF_UP, IFF_RUNNING = 0x8914, 0x1, 0x40
fcntl.ioctl(socket.socket(), SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP | IFF_RUNNING))
print("up", flush=True)
sys.stdin.read()
"""


ENDED_BY_INTERRUPT = 130
"""The exit code of commands that run until Ctrl-C; servers and agents end with 0."""


class Step(NamedTuple):
    """A block of commands."""

    commands: str
    mark: str
    output: str = ""


def steps_of(page: Path) -> list[Step]:
    steps, mark = list[Step](), ""
    for part in PART.finditer(page.read_text()):
        if part["language"] == "sh":
            steps.append(Step(part["text"], mark))
        elif part["language"] == "text":
            steps[-1] = steps[-1]._replace(output=part["text"])
        mark = part["mark"] or ""
    return steps


@pytest.fixture(scope="module")
def network() -> Iterator[int]:
    """A process in a separate network namespace, in which the fixed ports of the pages are free."""
    holder = subprocess.Popen(
        ["/usr/bin/unshare", "--net", sys.executable, "-c", LOOPBACK], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with holder:
        assert holder.stdout is not None
        if holder.stdout.readline() != b"up\n":
            pytest.skip("this user may not create a network namespace")
        yield holder.pid


class Terminal:
    """A shell that runs one block."""

    def __init__(self, commands: str, folder: Path, network: int, number: int) -> None:
        self.screen = folder.parent / f"{folder.name} terminal {number}"
        environment = {
            "PATH": f"{sys.prefix}/bin:{os.environ['PATH']}",
            "HOME": str(folder.parent / f"{folder.name} home"),
            "COLUMNS": "120",
            "TEST_RUN": os.environ["TEST_RUN"],
        }
        with self.screen.open("wb") as screen:
            self.process = subprocess.Popen(
                ["/usr/bin/nsenter", f"--net=/proc/{network}/ns/net", "/bin/bash", "-e", "-c", commands],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=screen,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def shows(self, output: str) -> bool:
        """Return whether the lines are on the screen, in this order; columns may have other widths."""
        lines = [re.escape(" ".join(line.split())).replace("…", ".*") for line in output.splitlines() if line.strip()]
        text = "\n".join(" ".join(line.split()) for line in self.screen.read_text().splitlines())
        return re.search("^" + r"$(?:\n.*)*?\n".join(lines) + "$", text, re.MULTILINE) is not None

    def interrupt(self) -> int:
        """Press Ctrl-C unless the shell has ended, and return its exit code."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, SIGINT)
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, SIGKILL)
            raise


@contextmanager
def running(step: Step, folder: Path, network: int, number: int) -> Iterator[None]:
    """Run a block until it shows the promised output, and until it ends unless it keeps running."""
    terminal = Terminal(step.commands, folder, network, number)

    def describe() -> str:
        return f"{step.commands}\nshows\n{terminal.screen.read_text()}\nnot\n{step.output}"

    try:
        if step.mark == "keeps running":
            wait_until(lambda: terminal.shows(step.output) or terminal.process.poll() is not None, says=describe)
        else:
            assert terminal.process.wait(PATIENCE) == 0, describe()
        assert terminal.shows(step.output), describe()
        yield
    finally:
        assert terminal.interrupt() in {0, ENDED_BY_INTERRUPT}, terminal.screen.read_text()


@pytest.mark.parametrize("name", ["README.md", "docs/tutorial.md"])
def test_each_block_does_what_the_page_shows(name: str, scratch: Path, network: int) -> None:
    folder = scratch / Path(name).stem
    (folder / "certs").mkdir(parents=True)
    (folder / ".venv").symlink_to(sys.prefix)
    steps = [step for step in steps_of(ROOT / name) if not step.mark.startswith("not run")]
    assert len(steps) > 2
    with ExitStack() as terminals:
        for number, step in enumerate(steps, 1):
            terminals.enter_context(running(step, folder, network, number))
