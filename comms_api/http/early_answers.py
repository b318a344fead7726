"""Let a client that is still sending read the answer that came early.

Closing a connection with unread bytes in it makes the kernel reset it, and the client loses the answer that it had
not read yet. So the answer goes out at once, and only its end waits until the rest of the body has been read and
thrown away, within a limit of bytes and of time.
"""

import asyncio

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, ReceiveMessage, Scope, Send

DISCARD_SECONDS = 5.0


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
        body = _Body(receive)

        async def send_then_discard(message: Message) -> None:
            if message["type"] == "http.response.body" and not message["more_body"] and not body.ended:
                await send({"type": "http.response.body", "body": message["body"], "more_body": True})
                await self._discard(body)
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            else:
                await send(message)

        await self._app(scope, body.receive, send_then_discard)

    async def _discard(self, body: "_Body") -> None:
        try:
            async with asyncio.timeout(DISCARD_SECONDS):
                while not body.ended and body.size <= self._limit:
                    await body.receive()
        except TimeoutError:
            return


class _Body:
    """Counts a request body as it is received and knows when it has ended."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.size = 0
        self.ended = False

    async def receive(self) -> ReceiveMessage:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.ended = True
        elif message["type"] == "http.request":
            self.size += len(message.get("body", b""))
            self.ended = not message.get("more_body", False)
        return message
