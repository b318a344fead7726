"""What the connections of one site share, and how they end."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from typing import Any, Protocol, TypeAlias

AsgiApp: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]


STALL_SECONDS = 300.0
"""For how long a client may take to make room for more of an answer."""


class Closable(Protocol):
    """A connection, as far as it is ended from outside."""

    def close_if_idle(self) -> None:
        """Close, unless a request is being served."""

    def abort(self) -> None:
        """Close at once."""


class Endpoint:
    """What the connections of one site share."""

    def __init__(
        self, app: AsgiApp, idle_seconds: float, *, asks_names: bool, stall_seconds: float = STALL_SECONDS
    ) -> None:
        """Take the app, for how long a connection may be idle, and whether clients' certificates name them."""
        self.app = app
        self.idle_seconds = idle_seconds
        self.asks_names = asks_names
        self.stall_seconds = stall_seconds
        self.is_ending = False
        self._connections: set[Closable] = set()
        self._closed = asyncio.Event()
        self._date_line = b""
        self._dated_at = 0

    def add(self, connection: Closable) -> None:
        """Count a connection."""
        self._connections.add(connection)

    def remove(self, connection: Closable) -> None:
        """Count it no more."""
        self._connections.discard(connection)
        if self.is_ending and not self._connections:
            self._closed.set()

    def end(self) -> None:
        """Close the connections that are idle, and have each other one close behind its answer."""
        self.is_ending = True
        for connection in list(self._connections):
            connection.close_if_idle()

    async def wait_until_closed(self) -> None:
        """Return once no connection is left, after `end`."""
        if self._connections:
            await self._closed.wait()

    def abort(self) -> None:
        """Cut off the connections that are left."""
        for connection in list(self._connections):
            connection.abort()

    def date_line(self) -> bytes:
        """Return the header that dates an answer (RFC 9110, 6.6.1), made once a second."""
        now = int(time.time())
        if now != self._dated_at:
            self._date_line, self._dated_at = f"date: {formatdate(now, usegmt=True)}\r\n".encode(), now
        return self._date_line
