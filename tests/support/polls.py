"""Hold many polls from one thread, each on its own TLS connection."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import msgspec

from comms_api.protocol import Orders

_ORDERS = msgspec.json.Decoder(Orders)


class Poll:
    """One held poll."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self.head = b""
        self.answer = asyncio.create_task(self._read(reader))

    async def _read(self, reader: asyncio.StreamReader) -> Orders:
        self.head = head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        length = next(int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if b"content-length" in line)
        return _ORDERS.decode(await reader.readexactly(length))

    @property
    def is_held(self) -> bool:
        return not self.answer.done()

    def close(self) -> None:
        self.answer.cancel()
        self._writer.transport.abort()


@asynccontextmanager
async def held_polls(
    tls: ssl.SSLContext, port: int, tokens: Sequence[str], wait_seconds: float = 3600
) -> AsyncIterator[list[Poll]]:
    """Hold one poll for each token, for as long as the node allows."""
    polls: list[Poll] = []
    try:
        for token in tokens:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls)
            head = f"GET /commands?wait={wait_seconds} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\n\r\n"
            writer.write(head.encode())
            polls.append(Poll(reader, writer))
        # Most polls have arrived after this; a test that needs all of them waits for a heartbeat that counts them.
        await asyncio.sleep(0.5)
        yield polls
    finally:
        for poll in polls:
            poll.close()
        await asyncio.gather(*(poll.answer for poll in polls), return_exceptions=True)


async def ask_repeatedly(tls: ssl.SSLContext, port: int, requests: int) -> None:
    """Send GET / repeatedly on one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls)
    for _ in range(requests):
        writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
    writer.transport.abort()
