"""A load generator that uses little CPU: it sends encoded requests over raw TLS connections that stay open."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from bench.system import System

OPENED_AT_ONCE = 32


class Refusal(RuntimeError):
    """An answer whose status is not 2xx."""

    def __init__(self, head: bytes, body: bytes) -> None:
        super().__init__((head + b" " + body).decode())
        self.status = int(head[9:12])
        value = head.lower().partition(b"\r\nretry-after: ")[2].partition(b"\r")[0]
        self.retry_after = value.decode() or None


class Connection(asyncio.Protocol):
    """A keep-alive connection with one request at a time. `connect` sets the transport."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self._received = b""
        self._answer: asyncio.Future[bytes] | None = None

    def send(self, request: bytes) -> "asyncio.Future[bytes]":
        """Send a request; the future returns the body of the answer, or raises `Refusal` if its status is not 2xx."""
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self._answer

    def data_received(self, data: bytes) -> None:
        """Collect the answer."""
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator or len(body) < _content_length(head):
            return
        self._received = b""
        if head[9:10] == b"2":
            self._settle(body)
        else:
            self._settle(Refusal(head, body))

    def connection_lost(self, _error: Exception | None) -> None:
        """Fail the request under way."""
        self._settle(ConnectionError("the server closed the connection"))

    def _settle(self, outcome: bytes | Exception) -> None:
        answer, self._answer = self._answer, None
        if answer is None or answer.done():
            return
        if isinstance(outcome, Exception):
            answer.set_exception(outcome)
        else:
            answer.set_result(outcome)

    def close(self) -> None:
        """Close the connection without waiting for an answer."""
        if self._answer is not None:
            self._answer.cancel()
        self.transport.abort()


def _content_length(head: bytes) -> int:
    start = head.find(b"content-length: ")
    return int(head[start + 16 :].partition(b"\r")[0]) if start >= 0 else 0


async def connect(system: System, port: int | None = None) -> Connection:
    """Open a connection to the agent API, or to another port."""
    loop = asyncio.get_running_loop()
    port = port or system.agent_port
    transport, connection = await loop.create_connection(Connection, "127.0.0.1", port, ssl=system.tls)
    connection.transport = transport
    return connection


async def connect_all(system: System, requests: Sequence[bytes]) -> "list[tuple[Connection, asyncio.Future[bytes]]]":
    """Open a connection for each request and send it; return the connections with their pending answers."""
    opened = []
    for start in range(0, len(requests), OPENED_AT_ONCE):
        batch = requests[start : start + OPENED_AT_ONCE]
        connections = await asyncio.gather(*(connect(system) for _ in batch))
        opened += [
            (connection, connection.send(request)) for connection, request in zip(connections, batch, strict=True)
        ]
    return opened


async def drive(system: System, requests: Sequence[Sequence[bytes]]) -> float:
    """Open a connection for each sequence, and send its requests one after the other; return the seconds it took."""
    opened = [await connect(system) for _ in requests]

    async def send(connection: Connection, sequence: Sequence[bytes]) -> None:
        for request in sequence:
            await connection.send(request)

    started = time.perf_counter()
    await asyncio.gather(*(send(connection, sequence) for connection, sequence in zip(opened, requests, strict=True)))
    seconds = time.perf_counter() - started
    for connection in opened:
        connection.close()
    return seconds


async def timed(exchange: Callable[[], Awaitable[object]]) -> float:
    """Return how many seconds an exchange takes."""
    started = time.perf_counter()
    await exchange()
    return time.perf_counter() - started
