"""A Unix socket as the source of agents."""

import asyncio
from pathlib import Path

from comms_api.key_requests.answers import BadAnswer, parse_answer
from comms_api.key_requests.model import ExternalAgent, Question, Refusal
from comms_api.key_requests.sources.source import SourceUnavailable


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
