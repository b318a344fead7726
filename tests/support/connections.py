"""Serve an ASGI app over plain connections of `http1`, and talk to it in raw bytes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from comms_api.http1.connection import Connection
from comms_api.http1.endpoint import AsgiApp, Endpoint, Limits
from support.waiting import PATIENCE


@asynccontextmanager
async def served(
    app: AsgiApp,
    idle_seconds: float = PATIENCE,
    stall_seconds: float = PATIENCE,
    *,
    is_paused: bool = False,
    **options: Any,
) -> AsyncIterator[tuple[Endpoint, int]]:
    limits = Limits(idle_seconds, PATIENCE, 2**20, discard_seconds=0.2, stall_seconds=stall_seconds)
    endpoint = Endpoint(app, limits, **options)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(endpoint, is_paused=is_paused), "127.0.0.1", 0)
    try:
        async with asyncio.timeout(PATIENCE):
            yield endpoint, server.sockets[0].getsockname()[1]
    finally:
        endpoint.abort()
        server.close()


async def exchange(port: int, data: bytes) -> bytes:
    """Return all bytes until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    received = await reader.read()
    writer.close()
    return received


def get(path: str, *headers: str) -> bytes:
    return "\r\n".join((f"GET {path} HTTP/1.1", "Host: a", *headers, "", "")).encode()


LAST = "Connection: close"
