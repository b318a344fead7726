"""The two sources of agents, a program and a Unix socket: each asks one question within a time and bounds all it reads.

What a program starts lives in its process group and dies with it: at its end, at the deadline, or when the answer grows
too large. Only a process that leaves the group (setsid) escapes, and then holds nothing of ours.
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
"""Of standard error that is read, though not kept: a program may talk much, but not keep the node busy."""

CUT_CHARACTERS = 1024
"""More than a key of 128 characters takes in JSON, six for each: the end of a cut text may hold half of one."""

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
    """Who can be asked for an agent."""

    async def ask(self, question: Question, seconds: float) -> ExternalAgent | Refusal:
        """Return the answer; raises `BadAnswer`, and `SourceUnavailable` when there is none within `seconds`."""


class SocketSource:
    """A server on a Unix stream socket: is sent `id:001` and answers with one line, or with all until it closes."""

    def __init__(self, path: Path, answer_bytes_maximum: int) -> None:
        self._path = path
        self._maximum = answer_bytes_maximum

    async def ask(self, question: Question, seconds: float) -> ExternalAgent | Refusal:
        """Return its answer; a socket that closes without a byte is unavailable."""
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
        """Connect and close, which a server must bear; raises `OSError`."""
        async with asyncio.timeout(seconds):
            _, writer = await asyncio.open_unix_connection(self._path)
        writer.close()


def _first_line(answer: bytes) -> bytes:
    line, _, remainder = answer.partition(b"\n")
    if remainder.strip():
        raise BadAnswer("it is more than one line")
    return line


class _Run(asyncio.SubprocessProtocol):
    """One run of the program: what it has said so far, and whether there is more to wait for."""

    def __init__(self, answer_bytes_maximum: int) -> None:
        self._maximum = answer_bytes_maximum
        self._noise_bytes = 0
        self._is_enough = asyncio.Event()
        self._has_exited = asyncio.Event()
        self._has_closed = asyncio.Event()
        self.answer = bytearray()
        self.complaint = bytearray()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Keep one byte more than the bounds, which tells that there was more; too much of either is enough."""
        kept, maximum = (self.complaint, COMPLAINT_BYTES_MAXIMUM) if fd == STDERR else (self.answer, self._maximum)
        kept += data[: maximum + 1 - len(kept)]
        self._noise_bytes += len(data) if fd == STDERR else 0
        if len(self.answer) > self._maximum or self._noise_bytes > NOISE_BYTES_MAXIMUM:
            self._is_enough.set()

    def process_exited(self) -> None:
        """Wake who waits for the program's end."""
        self._is_enough.set()
        self._has_exited.set()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's name
        """Wake who waits for the last of what it said."""
        self._has_closed.set()

    async def finish(self, transport: asyncio.SubprocessTransport, seconds: float) -> int:
        """Return the exit code, negative for a signal; raises `TimeoutError`. Nothing of the group lives on."""
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

    It gets no shell, no input, no environment of ours, `/` to work in, and a session of its own.
    """

    def __init__(self, settings: KeySettings) -> None:
        self._program = settings.program
        self._maximum = settings.answer_bytes_maximum
        limits = (settings.program_user or "", str(settings.program_memory_bytes), str(settings.program_cpu_seconds))
        self._command = (sys.executable, "-I", "-S", launch.__file__, *limits, *self._program)

    async def ask(self, question: Question, seconds: float) -> ExternalAgent | Refusal:
        """Return what the program prints, if it ends with exit code 0 within `seconds`."""
        transport, run = await self._start_whole(question)
        answer: ExternalAgent | Refusal | None = None
        try:
            self._check_exit(run, await run.finish(transport, seconds))
            answer = parse_answer(bytes(run.answer), question, self._maximum)
        except TimeoutError:
            raise SourceUnavailable(f"{self._program[0]} did not end within {seconds:g} s") from None
        finally:
            self._log_complaint(run, answer)
        return answer

    async def _start_whole(self, question: Question) -> tuple[asyncio.SubprocessTransport, _Run]:
        """Start the program; a cancellation waits for the start, since asyncio kills just the new process.

        Its children would live on and hold its pipes, and asyncio would wait for them forever.
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
            raise SourceUnavailable(f"{program} is not found")
        if exit_code == launch.NOT_EXECUTABLE:
            raise SourceUnavailable(f"{program} is not executable")
        if exit_code < 0:
            raise SourceUnavailable(f"{program} was ended by signal {-exit_code}")
        raise SourceUnavailable(f"{program} ended with exit code {exit_code}")

    def _log_complaint(self, run: _Run, answer: ExternalAgent | Refusal | None) -> None:
        if run.complaint.strip():
            keys = _keys_of(answer, bytes(run.answer))
            logger.warning("%s complains: %s", self._program[0], without_keys(bytes(run.complaint), keys))


def _keys_of(answer: ExternalAgent | Refusal | None, said: bytes) -> set[str]:
    """Return every way the key is written in an answer, usable or not."""
    keys = {match.decode(errors="replace") for match in _KEY_IN_JSON.findall(said)}
    if isinstance(answer, ExternalAgent):
        keys |= {answer.key, msgspec.json.encode(answer.key).decode()[1:-1]}
    return keys - {""}


def without_keys(complaint: bytes, keys: set[str]) -> str:
    """Return a program's complaint as one bounded, printable line that tells neither `keys` nor what looks like one."""
    text = complaint.decode(errors="replace")
    for key in sorted(keys, key=len, reverse=True):
        text = text.replace(key, HIDDEN)
    text = _LONG_WORD.sub(_hide_random, _KEY_IN_TEXT.sub(rf"\1{HIDDEN}", text))
    if len(complaint) > COMPLAINT_BYTES_MAXIMUM:
        text = f"{text[:-CUT_CHARACTERS]}…"
    return printable(text, COMPLAINT_BYTES_MAXIMUM)


def _hide_random(word: re.Match[str]) -> str:
    """Hide a long word with a digit in it: a failed program's key has no name in what it says."""
    return HIDDEN if any(character.isdigit() for character in word[0]) else word[0]
