"""Handshakes, which need no token, are background work and end in time."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import trustme
from support.waiting import PATIENCE, settle, until

from comms_api.fairness.rounds import HANDSHAKES, RoundQueue
from comms_api.http1.acceptor import Acceptor, Encryption
from comms_api.http1.endpoint import Accounting, Endpoint, Limits

REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


class HeldQueue(RoundQueue):
    """Grants a turn when the test releases it."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[tuple[object, str]] = []
        self._may_begin = asyncio.Semaphore(0)

    async def wait_for_turn(self, group: object, kind: str = "") -> None:
        self.waiting.append((group, kind))
        await self._may_begin.acquire()

    def release(self) -> None:
        self._may_begin.release()


async def answer(_scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@asynccontextmanager
async def accepting(handshake_seconds: float, proxies: Sequence[str] = ()) -> AsyncIterator[tuple[str, int]]:
    """Run an acceptor, and yield its address."""
    authority, server_side = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(server_side)
    endpoint = Endpoint(answer, Limits(PATIENCE, PATIENCE, 0))
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    acceptor = Acceptor(endpoint, listener, Encryption(server_side, handshake_seconds, PATIENCE), proxies)
    try:
        yield address
    finally:
        acceptor.close()
        endpoint.abort()


async def is_closed_after(address: tuple[str, int], data: bytes) -> bool:
    """Send data and nothing more; return whether the connection ends."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(data)
    async with asyncio.timeout(PATIENCE):
        with suppress(ConnectionError):
            while await reader.read(1024):
                pass
    writer.close()
    return True


@pytest.mark.anyio
@pytest.mark.parametrize("data", [b"", b"\x16\x03\x01\x02\x00\x01"], ids=["nothing", "half a hello"])
async def test_a_client_that_does_not_finish_its_handshake_in_time_is_disconnected(data: bytes) -> None:
    async with accepting(handshake_seconds=0.05) as address:
        assert await is_closed_after(address, data)


@pytest.mark.anyio
@pytest.mark.parametrize("data", [b"", b"PROXY TCP4 203."], ids=["nothing", "half a header"])
async def test_a_proxy_that_does_not_send_its_header_in_time_is_disconnected(
    data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("comms_api.http1.acceptor.HEADER_SECONDS", 0.05)
    async with accepting(handshake_seconds=2 * PATIENCE, proxies=["127.0.0.1/32"]) as address:
        assert await is_closed_after(address, data)


@pytest.mark.anyio
async def test_a_handshake_and_the_first_read_after_it_wait_for_turns_of_the_clients_address() -> None:
    authority, turns = trustme.CA(), HeldQueue()
    server_side, client_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(server_side)
    authority.configure_trust(client_side)
    endpoint = Endpoint(answer, Limits(PATIENCE, PATIENCE, 0), Accounting(turns=turns))
    listener = socket.create_server(("127.0.0.1", 0))
    acceptor = Acceptor(endpoint, listener, Encryption(server_side, PATIENCE, PATIENCE))
    client = asyncio.create_task(asyncio.open_connection(*listener.getsockname(), ssl=client_side))
    try:
        await until(lambda: turns.waiting == [("127.0.0.1", HANDSHAKES)])
        assert not client.done()
        turns.release()
        reader, writer = await client
        writer.write(REQUEST)
        await until(lambda: turns.waiting == [("127.0.0.1", HANDSHAKES)] * 2)
        assert endpoint.requests.total == 0
        turns.release()
        assert (await reader.readline()).startswith(b"HTTP/1.1 204")
        writer.transport.abort()
    finally:
        client.cancel()
        acceptor.close()
        endpoint.abort()
        await settle()
