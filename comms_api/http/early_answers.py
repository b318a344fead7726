"""Let a client that is still sending read the answer that came early.

Closing a connection with unread bytes in it makes the kernel reset it, and the client loses the answer that it had
not read yet. So the answer goes out at once, and only its end waits until the rest of the body has been read and
thrown away, within a limit of bytes and of time. The connection closes then, and the answer says so; a small body is
thrown away before the answer, and its connection lives on.
"""

import asyncio

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, ReceiveMessage, Scope, Send

DISCARD_SECONDS = 5.0
SMALL_BODY_BYTES = 64 * 1024


class DiscardLateBody:
    """Wraps an ASGI app; costs nothing for a request whose body the app has read."""

    def __init__(self, app: ASGIApp, body_bytes_maximum: int) -> None:
        """Take the app and how much of a body to discard."""
        self._app = app
        self._limit = body_bytes_maximum

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        body = _Body(scope, receive)

        async def send_then_discard(message: Message) -> None:
            if message["type"] == "http.response.start" and not body.ended:
                if body.is_small:
                    await body.discard(self._limit)
                if not body.ended:
                    message["headers"] = [*message["headers"], (b"connection", b"close")]
            if message["type"] == "http.response.body" and not message["more_body"] and not body.ended:
                await send({"type": "http.response.body", "body": message["body"], "more_body": True})
                await body.discard(self._limit)
                message["body"] = b""
            await send(message)

        await self._app(scope, body.receive, send_then_discard)


class _Body:
    """Counts a request body as it is received and knows when it has ended."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"0")
        self._receive = receive
        self._size = 0
        self.is_small = b"transfer-encoding" not in headers and int(length) <= SMALL_BODY_BYTES
        self.ended = self.is_small and int(length) == 0

    async def receive(self) -> ReceiveMessage:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.ended = True
        elif message["type"] == "http.request":
            self._size += len(message.get("body", b""))
            self.ended = not message.get("more_body", False)
        return message

    async def discard(self, limit: int) -> None:
        """Read on to the end of the body, or to a limit of bytes or time."""
        try:
            async with asyncio.timeout(DISCARD_SECONDS):
                while not self.ended and self._size <= limit:
                    await self.receive()
        except TimeoutError:
            return
