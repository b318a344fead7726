"""The two sources of agents, a program and a Unix socket; each answers within a timeout, and its output is bounded.

A program's child processes are in its process group. The whole group is killed when the program exits, at the deadline,
or when the answer grows too large. A process that leaves the group (setsid) survives, but holds none of our pipes.
"""

import asyncio
import logging
import os
import re
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import msgspec

from comms_api.errors import Unavailable
from comms_api.key_requests import launch
from comms_api.key_requests.answers import BadAnswer, parse_answer
from comms_api.key_requests.model import PROGRAM_FOLDERS, ExternalAgent, KeySettings, Question, Refusal, printable

logger = logging.getLogger(__name__)

TERMINATION_SECONDS = 0.5
LEFTOVER_SECONDS = 0.1
KILL_SECONDS = 1.0
COMPLAINT_BYTES_MAXIMUM = 4096
NOISE_BYTES_MAXIMUM = 2**20
"""How much standard error to read, most of it discarded, before the program is killed."""

CUT_CHARACTERS = 1024
"""Removed from the end of a truncated text, which may hold part of a key: 128 characters, up to six each in JSON."""

HIDDEN = "***"
STDERR = 2

_ENVIRONMENT = {"PATH": PROGRAM_FOLDERS, "LANG": "C.UTF-8"}
_KEY_IN_JSON = re.compile(rb'"key"\s*:\s*"((?:[^"\\]|\\.)*)')
_LONG_WORD = re.compile(r"[\w+=-]{24,}")
_KEY_IN_TEXT = re.compile(r"""(?i)(\bkey\b["']?\s*[:=]\s*)("[^"]*"?|'[^']*'?|[^\s,;}]+)""")


class SourceUnavailable(Unavailable):
    """The external source of agents cannot be asked now; try again later."""

    def __init__(self, reason: str) -> None:
        super().__init__()
        self.reason = reason
        """For the operator's log, not for the client."""


class Source(Protocol):
    """A source that answers questions about agents."""

    async def ask(self, question: Question, seconds: float) -> ExternalAgent | Refusal:
        """Return the answer; raises `BadAnswer`, or `SourceUnavailable` if none comes within `seconds`."""


class SocketSource:
    """A server on a Unix stream socket: it receives `id:001`, and answers with one line or until it closes."""

    def __init__(self, path: Path, answer_bytes_maximum: int) -> None:
        self._path = path
        self._maximum = answer_bytes_maximum

    async def ask(self, question: Question, seconds: float) -> ExternalAgent | Refusal:
        """Return the answer; a socket that closes without an answer is unavailable."""
        try:
            async with asyncio.timeout(seconds):
                answer = await self._exchange(f"{question.kind}:{question.value}".encode())
        except TimeoutError:
            raise SourceUnavailable(f"{self._path} did not answer within {seconds:g} s") from None
        except OSError as error:
            raise SourceUnavailable(f"{self._path}: {error.strerror or type(error).__name__}") from None
        if not answer:
            raise SourceUnavailable(f"{self._path} closed without an answer")
        return parse_answer(_first_line(answer), question, self._maximum)

    async def _exchange(self, request: bytes) -> bytes:
        reader, writer = await asyncio.open_unix_connection(self._path)
        try:
            writer.write(request)
            return await self._read(reader)
        finally:
            writer.transport.abort()

    async def _read(self, reader: asyncio.StreamReader) -> bytes:
        answer = bytearray()
        while b"\n" not in answer and len(answer) <= self._maximum:
            chunk = await reader.read(self._maximum)
            if not chunk:
                break
            answer += chunk
        return bytes(answer)

    async def check(self, seconds: float) -> None:
        """Connect and close without a question, which a server must tolerate; raises `OSError`."""
        async with asyncio.timeout(seconds):
            _, writer = await asyncio.open_unix_connection(self._path)
        writer.close()


def _first_line(answer: bytes) -> bytes:
    line, _, remainder = answer.partition(b"\n")
    if remainder.strip():
        raise BadAnswer("it is more than one line")
    return line


class _Run(asyncio.SubprocessProtocol):
    """One run of the program: its output so far, and whether to wait for more."""

    def __init__(self, answer_bytes_maximum: int) -> None:
        self._maximum = answer_bytes_maximum
        self._noise_bytes = 0
        self._is_enough = asyncio.Event()
        self._has_exited = asyncio.Event()
        self._has_closed = asyncio.Event()
        self.answer = bytearray()
        self.complaint = bytearray()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Keep one byte more than the limit to detect an overflow; stop the run when either output is too large."""
        kept, maximum = (self.complaint, COMPLAINT_BYTES_MAXIMUM) if fd == STDERR else (self.answer, self._maximum)
        kept += data[: maximum + 1 - len(kept)]
        self._noise_bytes += len(data) if fd == STDERR else 0
        if len(self.answer) > self._maximum or self._noise_bytes > NOISE_BYTES_MAXIMUM:
            self._is_enough.set()

    def process_exited(self) -> None:
        """Wake the task that waits for the program to exit."""
        self._is_enough.set()
        self._has_exited.set()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's name
        """Wake the task that waits for the last output."""
        self._has_closed.set()

    async def finish(self, transport: asyncio.SubprocessTransport, seconds: float) -> int:
        """Return the exit code, negative for a signal; raises `TimeoutError`. Kills the whole group."""
        group = transport.get_pid()
        try:
            async with asyncio.timeout(seconds):
                await self._is_enough.wait()
        except TimeoutError:
            _signal(group, signal.SIGTERM)
            await _within(TERMINATION_SECONDS, self._has_exited)
            raise
        else:
            await _within(LEFTOVER_SECONDS, self._has_closed)
        finally:
            await self.kill(transport)
        return transport.get_returncode() or 0

    async def kill(self, transport: asyncio.SubprocessTransport) -> None:
        """Kill all processes of the group."""
        _signal(transport.get_pid(), signal.SIGKILL)
        await _within(KILL_SECONDS, self._has_exited)
        transport.close()


def _signal(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


async def _within(seconds: float, event: asyncio.Event) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


class ProgramSource:
    """A program that is run for each question, with the kind and the value as its last arguments.

    It runs without a shell, without input and without the server's environment, in `/` and in a new session.
    """

    def __init__(self, settings: KeySettings) -> None:
        self._program = settings.program
        self._maximum = settings.answer_bytes_maximum
        limits = (settings.program_user or "", str(settings.program_memory_bytes), str(settings.program_cpu_seconds))
        self._command = (sys.executable, "-I", "-S", launch.__file__, *limits, *self._program)

    async def ask(self, question: Question, seconds: float) -> ExternalAgent | Refusal:
        """Return the answer that the program prints, if it exits with code 0 within `seconds`."""
        transport, run = await self._start_whole(question)
        answer: ExternalAgent | Refusal | None = None
        try:
            self._check_exit(run, await run.finish(transport, seconds))
            answer = parse_answer(bytes(run.answer), question, self._maximum)
        except TimeoutError:
            raise SourceUnavailable(f"{self._program[0]} did not exit within {seconds:g} s") from None
        finally:
            self._log_complaint(run, answer)
        return answer

    async def _start_whole(self, question: Question) -> tuple[asyncio.SubprocessTransport, _Run]:
        """Start the program; a cancellation waits for the start and then kills the whole process group.

        asyncio would kill only the new process; its children would keep the pipes open, and asyncio would wait forever.
        """
        starting = asyncio.create_task(self._start(question))
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            transport, run = await starting
            await run.kill(transport)
            raise

    async def _start(self, question: Question) -> tuple[asyncio.SubprocessTransport, _Run]:
        try:
            return await asyncio.get_running_loop().subprocess_exec(
                lambda: _Run(self._maximum),
                *self._command,
                question.kind,
                question.value,
                stdin=asyncio.subprocess.DEVNULL,
                env=_ENVIRONMENT,
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            raise SourceUnavailable(f"{self._program[0]} cannot be started: {error.strerror}") from None

    def _check_exit(self, run: _Run, exit_code: int) -> None:
        if len(run.answer) > self._maximum or exit_code == 0:
            return
        program = self._program[0]
        if exit_code == launch.NOT_FOUND:
            raise SourceUnavailable(f"{program} does not exist")
        if exit_code == launch.NOT_EXECUTABLE:
            raise SourceUnavailable(f"{program} is not executable")
        if exit_code < 0:
            raise SourceUnavailable(f"{program} was killed by signal {-exit_code}")
        raise SourceUnavailable(f"{program} exited with code {exit_code}")

    def _log_complaint(self, run: _Run, answer: ExternalAgent | Refusal | None) -> None:
        if run.complaint.strip():
            keys = _keys_of(answer, bytes(run.answer))
            logger.warning("%s wrote to standard error: %s", self._program[0], without_keys(bytes(run.complaint), keys))


def _keys_of(answer: ExternalAgent | Refusal | None, said: bytes) -> set[str]:
    """Return every spelling of the key in an answer, valid or not."""
    keys = {match.decode(errors="replace") for match in _KEY_IN_JSON.findall(said)}
    if isinstance(answer, ExternalAgent):
        keys |= {answer.key, msgspec.json.encode(answer.key).decode()[1:-1]}
    return keys - {""}


def without_keys(complaint: bytes, keys: set[str]) -> str:
    """Return a program's standard error as one bounded, printable line; hide `keys` and words that look like keys."""
    text = complaint.decode(errors="replace")
    for key in sorted(keys, key=len, reverse=True):
        text = text.replace(key, HIDDEN)
    text = _LONG_WORD.sub(_hide_random, _KEY_IN_TEXT.sub(rf"\1{HIDDEN}", text))
    if len(complaint) > COMPLAINT_BYTES_MAXIMUM:
        text = f"{text[:-CUT_CHARACTERS]}…"
    return printable(text, COMPLAINT_BYTES_MAXIMUM)


def _hide_random(word: re.Match[str]) -> str:
    """Hide a long word that contains a digit: a failed program may print a key without a label."""
    return HIDDEN if any(character.isdigit() for character in word[0]) else word[0]
