"""A cheap load generator: requests encoded once, sent over raw TLS streams that stay open."""

import asyncio
import time
from collections.abc import Callable, Sequence
from uuid import UUID

import msgspec

from bench.system import System

EVENT_TEXT_BYTES = 330


class Connection:
    """One keep-alive connection to the agent API."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take an open stream."""
        self._reader = reader
        self._writer = writer

    async def exchange(self, request: bytes) -> bytes:
        """Send a request and return the body of its answer, which must be a 2xx."""
        self._writer.write(request)
        return await self.read()

    def send(self, request: bytes) -> None:
        """Send a request whose answer is read later."""
        self._writer.write(request)

    async def read(self) -> bytes:
        """Return the body of the next answer, which must be a 2xx."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        if head[9:10] != b"2":
            raise RuntimeError(head.decode())
        length = head.find(b"content-length: ")
        if length < 0:
            return b""
        return await self._reader.readexactly(int(head[length + 16 : head.index(b"\r", length)]))

    def close(self) -> None:
        """Close at once."""
        self._writer.transport.abort()


async def connect(system: System) -> Connection:
    """Open a connection."""
    return Connection(*await asyncio.open_connection("127.0.0.1", system.agent_port, ssl=system.tls))


def post(path: str, token: str, body: bytes, *headers: str) -> bytes:
    """Return a POST request."""
    lines = [f"POST {path} HTTP/1.1", "Host: bench", f"Content-Length: {len(body)}", *headers]
    if token:
        lines.append(f"Authorization: Bearer {token}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def poll(token: str) -> bytes:
    """Return a long poll."""
    return f"GET /commands HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {token}\r\n\r\n".encode()


def event_lines(count: int) -> list[bytes]:
    """Return events of about 400 bytes."""
    return [
        msgspec.json.encode(
            {"event": {"original": f"{number:08d} " + "x" * EVENT_TEXT_BYTES}, "log": {"file": "/var/log/syslog"}}
        )
        for number in range(count)
    ]


def batch(agent_id: UUID, lines: Sequence[bytes]) -> bytes:
    """Return a stateless batch."""
    head = msgspec.json.encode({"agent": {"id": str(agent_id), "name": "bench"}})
    return b"\n".join((head, b'{"module":"logcollector","collector":"file"}', *lines)) + b"\n"


async def drive(system: System, requests: Callable[[int], Sequence[bytes]], connections: int) -> float:
    """Send each connection its requests, one after the other, all connections at once; return the seconds it took."""
    opened = [await connect(system) for _ in range(connections)]

    async def run(number: int) -> None:
        for request in requests(number):
            await opened[number].exchange(request)

    started = time.perf_counter()
    await asyncio.gather(*(run(number) for number in range(connections)))
    seconds = time.perf_counter() - started
    for connection in opened:
        connection.close()
    return seconds


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that `share` of the values do not exceed."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]
