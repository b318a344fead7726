"""Decide whose TLS handshake is next.

A handshake costs as much CPU time as several requests, and it needs no token. So one begins in each cycle of the event
loop, and what else is ready runs in between. Groups of addresses take turns: whoever opens many connections delays a
client of another group by one handshake. The queue is entered when the first bytes of a client are there, so clients
that connect and send nothing hold nobody up, and cannot gather handshakes that all begin at once.
"""

import asyncio
import socket
from collections import deque


class HandshakeQueue:
    """The connections that could begin their handshakes now."""

    def __init__(self) -> None:
        """Start empty."""
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        """By group of addresses; the first group is next."""

    async def wait_for_turn(self, group: str) -> None:
        """Return when a connection of this group may begin its handshake."""
        turn: asyncio.Future[None] = self._loop.create_future()
        if not self._waiting:
            self._loop.call_soon(self._grant)
        self._waiting.setdefault(group, deque()).append(turn)
        await turn

    def _grant(self) -> None:
        """Grant the next turn; the one after comes in the next cycle of the event loop."""
        is_granted = False
        while self._waiting and not is_granted:
            group = next(iter(self._waiting))
            own = self._waiting.pop(group)
            turn = own.popleft()
            if not turn.done():  # else its connection has been given up
                turn.set_result(None)
                is_granted = True
            if own:
                self._waiting[group] = own  # behind the others
        if self._waiting:
            self._loop.call_soon(self._grant)


async def wait_until_readable(connection: socket.socket) -> None:
    """Return when a socket has bytes to read, or its peer has closed it."""
    loop = asyncio.get_running_loop()
    readable: asyncio.Future[None] = loop.create_future()
    loop.add_reader(connection, lambda: None if readable.done() else readable.set_result(None))
    try:
        await readable
    finally:
        loop.remove_reader(connection)
