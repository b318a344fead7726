"""A server that gives prepared answers, for tests of the reference agent."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path

from support.serving import serving
from support.tls import server_tls
from support.waiting import PATIENCE

Answer = tuple[int, bytes]


class ScriptedServer:
    """A server on a real socket that returns the configured answers, one per request, and then does not answer."""

    def __init__(self, folder: Path, answers: list[Answer]) -> None:
        self.ca = folder / "ca.pem"
        self._tls = server_tls(self.ca)
        self.answers = answers
        self.heads: list[str] = []
        self.bodies: list[bytes] = []

    @property
    def paths(self) -> list[str]:
        return [head.split(" ")[1] for head in self.heads]

    def headers(self, name: str) -> list[str]:
        """Return the values of a header, one per request that has it."""
        lines = (line.partition(": ") for head in self.heads for line in head.split("\r\n"))
        return [value for key, _, value in lines if key.lower() == name.lower()]

    async def talk(self, conversation: Callable[[str], Coroutine[None, None, None]]) -> None:
        async with serving(self._serve, tls=self._tls) as port, asyncio.timeout(PATIENCE):
            await conversation(f"https://localhost:{port}")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        size = int(head.lower().partition("content-length: ")[2].partition("\r\n")[0] or 0)
        self.bodies.append(await reader.readexactly(size))
        self.heads.append(head)
        if self.answers:
            status, body = self.answers.pop(0)
            writer.write(f"HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode())
            writer.write(body)
        writer.close()
