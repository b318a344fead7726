"""The state that the connections of one site share, and how they end."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from typing import Any, Protocol, TypeAlias

import msgspec

AsgiApp: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]

CLOSES = "comms_api.closes"
"""A key of a request's scope: an app sets it to true to close the connection after the answer."""

IS_HEAD = "comms_api.is_head"
"""A key of a request's scope: whether the request is a HEAD, which an app receives as a GET.

The answer ends with its head: the app may not send a body, and is told that its client has left.
"""

HAS_LEFT = "comms_api.has_left"
"""A key of a request's scope: a call that returns whether the client has closed its connection, as the kernel knows it.

Nothing is read for that, so it also notices a client that left while this process was frozen or busy.
"""


class Limits(msgspec.Struct, frozen=True):
    """The bounds of each connection."""

    idle_seconds: float
    """How long a connection may wait for the head of a request."""

    body_seconds: float
    """How long a client may take to send a body, from when the app asks for it."""

    body_bytes: int
    """How much of a body that no app reads is discarded before the connection closes."""

    discard_seconds: float = 5.0
    """For how long it is discarded."""

    stall_seconds: float = 300.0
    """How long a client may take to make room for more of an answer."""


class Closable(Protocol):
    """A connection, as far as it is ended from outside."""

    def close_if_idle(self) -> None:
        """Close, unless a request is being served."""

    def abort(self) -> None:
        """Close at once."""


class Endpoint:
    """The app and the limits of one site, and its open connections.

    With `asks_names`, scopes name the subject of the client's certificate.
    """

    def __init__(self, app: AsgiApp, limits: Limits, *, asks_names: bool) -> None:
        """Start without connections."""
        self.app = app
        self.limits = limits
        self.asks_names = asks_names
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
