"""Serve connections in the event loop of a test, and leave none of them open."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from support.waiting import settle

Handling = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


@asynccontextmanager
async def serving(
    handle: Handling, path: Path | None = None, *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """Handle each connection in a task; after the block, end these tasks and close the connections.

    The server listens at a Unix socket, or at a free port of this host, which it yields.
    """
    connections: list[tuple[asyncio.Task[None], asyncio.StreamWriter]] = []

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append((asyncio.create_task(handle(reader, writer)), writer))

    if path is None:
        server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
    else:
        server = await asyncio.start_unix_server(accept, path)
    try:
        yield 0 if path else server.sockets[0].getsockname()[1]
    finally:
        await settle()  # a connection that has not reached `accept` when the server closes would remain open
        server.close()
        for task, _ in connections:
            task.cancel()
        await asyncio.gather(*(task for task, _ in connections), return_exceptions=True)
        for _, writer in connections:
            writer.transport.abort()
        await settle()
