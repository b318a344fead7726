"""Wait for the first bytes of a socket that no transport reads yet."""

import asyncio
import socket


async def wait_until_readable(connection: socket.socket) -> None:
    """Return when a socket has bytes to read, or its peer has closed it."""
    loop = asyncio.get_running_loop()
    readable: asyncio.Future[None] = loop.create_future()
    loop.add_reader(connection, lambda: None if readable.done() else readable.set_result(None))
    try:
        await readable
    finally:
        loop.remove_reader(connection)
