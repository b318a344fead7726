"""Bound the time that a body takes, and let a client that is still sending read the answer that came early.

Closing a connection with unread bytes in it makes the kernel reset it, and the client loses the answer that it had
not read yet. So the answer goes out at once, and only its end waits until the rest of the body has been read and
thrown away, within a limit of bytes and of time. The connection closes then, and the answer says so; a small body is
thrown away before the answer, and its connection lives on. A body that its client holds back until it is asked for it
(Expect: 100-continue) is not asked for only to be thrown away, and one that took too long is waited for no more.
"""

import asyncio
from collections.abc import Awaitable

import msgspec
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, ReceiveMessage, Scope, Send

from comms_api.errors import TooSlow
from comms_api.http.request import CLOSES, close_afterwards, find_header

DISCARD_SECONDS = 5.0
SMALL_BODY_BYTES = 64 * 1024
_CLOSE = (b"connection", b"close")


class _Limits(msgspec.Struct, frozen=True):
    bytes: int
    seconds: float


class DiscardLateBody:
    """Wraps an ASGI app; costs next to nothing for a request whose body the app has read."""

    def __init__(self, app: ASGIApp, body_bytes_maximum: int, body_seconds_maximum: float) -> None:
        """Take the app, how much of a body to discard, and for how long one may be read; `TooSlow` is raised then."""
        self._app = app
        self._limits = _Limits(body_bytes_maximum, body_seconds_maximum)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one request; no coroutine, of which each held poll would keep one."""
        if scope["type"] == ScopeType.HTTP:
            exchange = _Exchange(scope, receive, send, self._limits)
            receive, send = exchange.receive, exchange.send
        return self._app(scope, receive, send)


class _Exchange:
    """A request and its answer; knows when the request's body has ended."""

    __slots__ = ("_deadline", "_ended", "_limits", "_receive", "_scope", "_send", "_size")

    def __init__(self, scope: Scope, receive: Receive, send: Send, limits: _Limits) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._limits = limits
        self._size = 0
        self._ended = False
        self._deadline: float | None = None

    async def receive(self) -> ReceiveMessage:
        if self._ended:
            return await self._receive()
        if self._deadline is None:
            self._deadline = asyncio.get_running_loop().time() + self._limits.seconds
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            self._ended = True
            close_afterwards(self._scope)
            raise TooSlow from None
        if message["type"] == "http.disconnect":
            self._ended = True
        elif message["type"] == "http.request":
            self._size += len(message.get("body", b""))
            self._ended = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        if not self._ended:
            message = await self._send_early(message)
        if CLOSES in self._scope and message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], _CLOSE]
        await self._send(message)

    async def _send_early(self, message: Message) -> Message:
        """Discard what is left of the body, and return what to send after that."""
        if message["type"] == "http.response.start":
            if self._is_small():
                await self._discard()
            if not self._ended:
                close_afterwards(self._scope)
        elif message["type"] == "http.response.body" and not message["more_body"]:
            await self._send({"type": "http.response.body", "body": message["body"], "more_body": True})
            await self._discard()
            message["body"] = b""
        return message

    def _is_small(self) -> bool:
        if find_header(self._scope, b"transfer-encoding") is not None:
            return False
        length = int(find_header(self._scope, b"content-length") or 0)
        self._ended = length == 0
        return length <= SMALL_BODY_BYTES and not self._is_unasked()

    def _is_unasked(self) -> bool:
        """Return whether the client waits to be asked for its body; told of a refusal it may send it all the same."""
        return self._size == 0 and find_header(self._scope, b"expect") is not None

    async def _discard(self) -> None:
        """Read on to the end of the body, or for as many bytes as a body may have, or for some time."""
        enough = self._size + self._limits.bytes
        try:
            async with asyncio.timeout(DISCARD_SECONDS):
                while not self._ended and self._size <= enough:
                    await self.receive()
        except (TimeoutError, TooSlow):
            return
