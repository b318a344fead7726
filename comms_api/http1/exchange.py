"""A request and its answer, as an ASGI app takes and gives them (ASGI 3.0, HTTP 2.3)."""

import asyncio
import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Protocol

from comms_api.http1.answer import CONTINUE, Answer, encode_refusal
from comms_api.http1.endpoint import Endpoint
from comms_api.http1.reader import Head, Refused, RequestReader

logger = logging.getLogger(__name__)

PIECE_BYTES = 64 * 1024
_FAILURE = Refused(HTTPStatus.INTERNAL_SERVER_ERROR, "The server failed.")


class Wire(Protocol):
    """What an exchange needs of its connection."""

    endpoint: Endpoint
    reader: RequestReader

    def write(self, data: bytes) -> None:
        """Send to the client, unless it has left."""

    async def wait_until_writable(self) -> None:
        """Return once the client has read enough, or has left."""

    def regulate(self) -> None:
        """Read on from the network, unless enough waits to be read here."""

    def answered(self, *, closes: bool) -> None:
        """Go on to the next request, if there can be one."""

    def close(self) -> None:
        """Close, once what has been written is sent."""


class Exchange:
    """A request whose head has been read, until it is answered or its client has left."""

    __slots__ = (
        "_answer",
        "_awaits_permission",
        "_connection",
        "_head",
        "_is_answered",
        "_is_body_taken",
        "_is_left",
        "_start",
        "_task",
        "_waiter",
    )

    def __init__(self, connection: Wire, head: Head) -> None:
        """Take the connection, whose reader reads the body."""
        self._connection = connection
        self._head = head
        self._answer = Answer()
        self._awaits_permission = head.version == "1.1" and any(
            name == b"expect" and value.lower() == b"100-continue" for name, value in head.headers
        )
        self._is_body_taken = self._is_answered = self._is_left = False
        self._start: Mapping[str, Any] | None = None
        """The start of the answer, until it goes out with what follows at once."""

        self._waiter: asyncio.Future[None] | None = None

    def begin(self, scope: dict[str, Any]) -> None:
        """Have the app serve the request."""
        self._task = asyncio.create_task(self._run(scope))

    def leave(self) -> None:
        """Tell the app that its client has left."""
        self._is_left = True
        self.wake()

    def wake(self) -> None:
        """Let the app have the news: more of the body, or the end."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def refuse(self, refused: Refused) -> None:
        """Answer in the app's place, unless it has begun to, and close the connection."""
        if not self._answer.is_begun:
            self._connection.write(encode_refusal(refused, self._connection.endpoint.date_line()))
        self.leave()
        self._connection.close()

    async def _run(self, scope: dict[str, Any]) -> None:
        try:
            await self._connection.endpoint.app(scope, self._receive, self._send)
        except Exception:
            logger.exception("an app failed")
        if not self._is_answered and not self._is_left:
            self.refuse(_FAILURE)

    async def _receive(self) -> dict[str, Any]:
        connection, reader = self._connection, self._connection.reader
        if self._awaits_permission:
            self._awaits_permission = False
            if self._start is None and not self._answer.is_begun and not reader.is_complete:
                connection.write(CONTINUE)
        while not self._is_answered:
            if reader.body_bytes or (reader.is_complete and not self._is_body_taken):
                self._is_body_taken = reader.is_complete
                body = reader.take_body()
                connection.regulate()
                return {"type": "http.request", "body": body, "more_body": not self._is_body_taken}
            if self._is_left:
                break
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return {"type": "http.disconnect"}

    async def _send(self, message: Mapping[str, Any]) -> None:
        if self._is_left or self._is_answered:
            return
        if message["type"] == "http.response.start":
            self._start = message
            asyncio.get_running_loop().call_soon(self._send_head)
            return
        body, is_last = message.get("body", b""), not message.get("more_body", False)
        head = self._encode_head(len(body) if is_last else None)
        await self._write(head + self._answer.encode_body(body, is_last=is_last))
        if is_last and not self._is_left:
            self._is_answered = True
            self.wake()
            self._connection.answered(closes=self._answer.closes or not self._answer.is_whole)

    async def _write(self, data: bytes) -> None:
        """Send in pieces as the client takes them: a transport would take all at once, and say nothing."""
        for start in range(0, len(data), PIECE_BYTES):
            self._connection.write(data[start : start + PIECE_BYTES])
            await self._connection.wait_until_writable()

    def _send_head(self) -> None:
        """Send the head of an answer whose body does not follow at once."""
        if self._start is None or self._is_left:
            return
        try:
            self._connection.write(self._encode_head(None))
        except ValueError:
            logger.exception("an app's answer has no right head")
            self.refuse(_FAILURE)

    def _encode_head(self, length: int | None) -> bytes:
        if self._start is None:
            return b""
        head, endpoint = self._head, self._connection.endpoint
        self._answer.closes = self._connection.reader.is_last or endpoint.is_ending
        data = self._answer.encode_head(self._start, head.method, head.version, endpoint.date_line(), length)
        self._start = None
        return data
