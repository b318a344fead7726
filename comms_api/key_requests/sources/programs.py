"""A program as the source of agents: it is run for each question, and its output is bounded.

A program's child processes are in its process group. The whole group is killed when the program exits, at the deadline,
or when the answer grows too large. A process that leaves the group (setsid) survives, but holds none of our pipes.
"""

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial

from comms_api.key_requests.answers import parse_answer
from comms_api.key_requests.model import PROGRAM_FOLDERS, ExternalAgent, KeySettings, Question, Refusal
from comms_api.key_requests.sources import launch
from comms_api.key_requests.sources.complaints import COMPLAINT_BYTES_MAXIMUM, keys_of, without_keys
from comms_api.key_requests.sources.source import SourceUnavailable

logger = logging.getLogger(__name__)

TERMINATION_SECONDS = 0.5
LEFTOVER_SECONDS = 0.1
KILL_SECONDS = 1.0
NOISE_BYTES_MAXIMUM = 2**20
"""The program is killed when its standard error exceeds this; most of it is discarded."""

_ENVIRONMENT = {"PATH": PROGRAM_FOLDERS, "LANG": "C.UTF-8"}


class ProgramSource:
    """A program that is run for each question, with the kind and the value as its last arguments.

    It runs without a shell, without input and without the server's environment, in `/` and in its own process group.
    """

    def __init__(self, settings: KeySettings) -> None:
        self._program = settings.program[0]
        self._maximum = settings.answer_bytes_maximum
        limits = (settings.program_user or "", str(settings.program_memory_bytes), str(settings.program_cpu_seconds))
        self._launcher = Launcher((*limits, *settings.program))

    def close(self) -> None:
        """End the process that starts the program."""
        self._launcher.close()

    async def ask(self, question: Question, seconds: float) -> ExternalAgent | Refusal:
        """Return the answer that the program prints, if it exits with code 0 within `seconds`."""
        run = _Run(self._maximum)
        answer: ExternalAgent | Refusal | None = None
        try:
            await run.start(self._launcher, question)
            self._check_exit(run, await run.finish(seconds))
            answer = parse_answer(bytes(run.answer), question, self._maximum)
        except TimeoutError:
            raise SourceUnavailable(f"{self._program} did not exit within {seconds:g} s") from None
        except OSError as error:
            raise SourceUnavailable(f"{self._program} cannot be started: {error.strerror}") from None
        finally:
            await run.kill()
            self._log_complaint(run, answer)
        return answer

    def _check_exit(self, run: "_Run", exit_code: int | None) -> None:
        if len(run.answer) > self._maximum or exit_code == 0:
            return
        if exit_code is None:
            raise SourceUnavailable(f"{self._program} cannot be started: the system refuses the process")
        if exit_code == launch.NOT_FOUND:
            raise SourceUnavailable(f"{self._program} does not exist")
        if exit_code == launch.NOT_EXECUTABLE:
            raise SourceUnavailable(f"{self._program} is not executable")
        if exit_code < 0:
            raise SourceUnavailable(f"{self._program} was killed by signal {-exit_code}")
        raise SourceUnavailable(f"{self._program} exited with code {exit_code}")

    def _log_complaint(self, run: "_Run", answer: ExternalAgent | Refusal | None) -> None:
        if run.complaint.strip():
            keys = keys_of(answer, bytes(run.answer))
            logger.warning("%s wrote to standard error: %s", self._program, without_keys(bytes(run.complaint), keys))


class Launcher:
    """The process that starts the programs (`launch.py`); it starts with the first of them, and again if it has died.

    A node has hundreds of megabytes and many threads: forking it takes 25 ms, in which its event loop does nothing
    else, and a new interpreter that sets the limits takes 20 ms more. This process forks within a millisecond.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self._command = (sys.executable, "-I", "-S", launch.__file__, *arguments)
        self._running: tuple[subprocess.Popen[bytes], socket.socket] | None = None

    def start(self, question: Question, pipes: Sequence[int]) -> None:
        """Start a program that writes to these pipes; raises `OSError`."""
        message = [f"{question.kind} {question.value}".encode()]
        try:
            socket.send_fds(self._connection(), message, pipes)
        except (BrokenPipeError, ConnectionResetError):
            self.close()
            socket.send_fds(self._connection(), message, pipes)

    def _connection(self) -> socket.socket:
        if self._running is None:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                process = subprocess.Popen(  # noqa: S603 - the command of the settings
                    self._command, stdin=theirs.fileno(), env=_ENVIRONMENT, cwd="/", start_new_session=True
                )
            ours.settimeout(0)
            self._running = process, ours
        return self._running[1]

    def close(self) -> None:
        """End the process; the programs that it has started continue."""
        if self._running is not None:
            process, connection = self._running
            self._running = None
            connection.close()
            process.kill()
            process.wait()


class _Run:
    """One run of the program: its output so far, and whether to wait for more."""

    def __init__(self, answer_bytes_maximum: int) -> None:
        self._maximum = answer_bytes_maximum
        self._noise_bytes = 0
        self._report = bytearray()
        self._is_reported = asyncio.Event()
        self._is_enough = asyncio.Event()
        self._has_exited = asyncio.Event()
        self._has_closed = asyncio.Event()
        self._transports: list[asyncio.ReadTransport] = []
        self._open_outputs = 2
        self.answer = bytearray()
        self.complaint = bytearray()

    async def start(self, launcher: Launcher, question: Question) -> None:
        """Start the program; raises `OSError`."""
        with ExitStack() as written:
            pipes = [
                await self._connect(written, self._read_answer, self._end_output),
                await self._connect(written, self._read_complaint, self._end_output),
                await self._connect(written, self._read_report, self._end_report),
            ]
            launcher.start(question, pipes)

    async def _connect(self, written: ExitStack, read: Callable[[bytes], None], end: Callable[[], None]) -> int:
        """Open a pipe that is read here, and return its other end, which the stack closes."""
        ours, theirs = os.pipe()
        written.callback(os.close, theirs)
        reader = partial(_PipeReader, read, end)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(reader, os.fdopen(ours, "rb", buffering=0))
        self._transports.append(transport)
        return theirs

    def _read_answer(self, part: bytes) -> None:
        """Keep one byte more than the limit to detect an overflow."""
        self.answer += part[: self._maximum + 1 - len(self.answer)]
        if len(self.answer) > self._maximum:
            self._is_enough.set()

    def _read_complaint(self, part: bytes) -> None:
        self.complaint += part[: COMPLAINT_BYTES_MAXIMUM + 1 - len(self.complaint)]
        self._noise_bytes += len(part)
        if self._noise_bytes > NOISE_BYTES_MAXIMUM:
            self._is_enough.set()

    def _end_output(self) -> None:
        self._open_outputs -= 1
        if not self._open_outputs:
            self._has_closed.set()

    def _read_report(self, part: bytes) -> None:
        self._report += part
        if b"\n" in self._report:
            self._is_reported.set()
        if self._report.count(b"\n") > 1:
            self._end_report()

    def _end_report(self) -> None:
        for event in (self._is_reported, self._is_enough, self._has_exited):
            event.set()

    async def finish(self, seconds: float) -> int | None:
        """Return the exit code, negative for a signal, and None if no program runs; raises `TimeoutError`."""
        try:
            async with asyncio.timeout(seconds):
                await self._is_enough.wait()
        except TimeoutError:
            self._signal(signal.SIGTERM)
            await _within(TERMINATION_SECONDS, self._has_exited)
            raise
        await _within(LEFTOVER_SECONDS, self._has_closed)
        await self.kill()
        lines = self._report.split(b"\n")
        return int(lines[1]) if len(lines) > 1 and lines[1] else None

    async def kill(self) -> None:
        """Kill all processes of the group."""
        if self._transports:
            await _within(KILL_SECONDS, self._is_reported)  # it has just been started
            self._signal(signal.SIGKILL)
            await _within(KILL_SECONDS, self._has_exited)
        for transport in self._transports:
            transport.close()

    def _signal(self, number: signal.Signals) -> None:
        if self._is_reported.is_set() and not self._has_exited.is_set():
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(int(self._report.split(b"\n")[0]), number)


class _PipeReader(asyncio.Protocol):
    """Passes on the bytes that arrive from a pipe."""

    def __init__(self, read: Callable[[bytes], None], end: Callable[[], None]) -> None:
        self._read = read
        self._end = end

    def data_received(self, data: bytes) -> None:
        """Pass the bytes on."""
        self._read(data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's name
        """Report the end of the pipe."""
        self._end()


async def _within(seconds: float, event: asyncio.Event) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
