"""A request and its answer, as an ASGI app receives and sends them (ASGI 3.0, HTTP 2.3).

An app may answer before it has read the body. If the connection closed with unread bytes, the kernel would reset it
and the client could lose the answer. So the rest of the body is read and discarded, within a limit of bytes and of
time. A small body is discarded before the answer, and the connection stays open. A larger body is discarded after the
answer, which announces that the connection closes. The server never requests a body that the client holds back
(Expect: 100-continue) only to discard it.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Any, Protocol

from comms_api.errors import TooSlow
from comms_api.fairness.metering import Metered
from comms_api.http1.answer import CONTINUE, Answer, encode_refusal
from comms_api.http1.content_encoding import STEP_BYTES, Compressor, choose_encoding, compressor_of, encoded_start
from comms_api.http1.endpoint import AT_ANSWER, AT_END, AUTHENTICATED, CLOSES, METER, Closable, Endpoint
from comms_api.http1.reader import Head, Refused, RequestReader

logger = logging.getLogger(__name__)

PIECE_BYTES = 64 * 1024
SMALL_BODY_BYTES = 64 * 1024
DISCARDED_IN_TURN_BYTES = 2**20
"""The part of an unread body that is discarded in a turn: it takes as long as a slice of a computation."""

_FAILURE = Refused(HTTPStatus.INTERNAL_SERVER_ERROR, "The server failed to answer the request.")


class Wire(Closable, Protocol):
    """The methods of a connection that an exchange uses."""

    endpoint: Endpoint
    reader: RequestReader

    def write(self, data: bytes) -> None:
        """Send to the client, unless it has disconnected."""

    async def wait_until_writable(self) -> None:
        """Return once the client has read enough, or has disconnected."""

    def update_reading(self) -> None:
        """Read from the network while the buffer has room; pause reading otherwise."""

    def answered(self, *, closes: bool) -> None:
        """Continue with the next request, or close the connection."""

    def close(self) -> None:
        """Close once all written bytes have been sent."""


class Exchange:
    """A request whose head has been read, until it is answered or its client disconnects."""

    __slots__ = (
        "_answer",
        "_awaits_permission",
        "_compressor",
        "_connection",
        "_deadline",
        "_head",
        "_is_answered",
        "_is_body_taken",
        "_is_left",
        "_meter",
        "_scope",
        "_start",
        "_task",
        "_waiter",
        "state",
    )

    def __init__(self, connection: Wire, head: Head) -> None:
        self._connection = connection
        self._head = head
        self._answer = Answer()
        self._awaits_permission = head.version == "1.1" and any(
            name == b"expect" and value.lower() == b"100-continue" for name, value in head.headers
        )
        self._is_body_taken = self._is_answered = self._is_left = False
        self._scope: dict[str, Any] = {}
        self.state: dict[str, Any] = {}
        """The `state` of the request's scope, through which the app gives instructions to its connection."""

        self._start: Mapping[str, Any] | None = None
        """The buffered `http.response.start`, sent together with the first body part."""

        self._compressor: Compressor | None = None
        self._deadline: float | None = None
        """The deadline for the body, by the clock of the event loop."""

        self._waiter: asyncio.Future[None] | None = None

    def begin(self, scope: dict[str, Any]) -> None:
        """Start the app on the request."""
        self._scope, self.state = scope, scope["state"]
        self._meter = Metered(self._run(scope), f"{self._head.method} {self._head.path!r}")
        self.state[METER] = self._meter
        self._task = asyncio.create_task(self._meter)

    def leave(self) -> None:
        """Tell the app that its client has disconnected."""
        self._is_left = True
        self.wake()

    def wake(self) -> None:
        """Wake the app because more of the body has arrived, or the exchange has ended."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def refuse(self, refused: Refused) -> None:
        """Answer instead of the app, unless the app has begun its answer, and close the connection."""
        if not self._answer.is_begun:
            self._answer.status = refused.status
            self._connection.write(encode_refusal(refused, self._connection.endpoint.date_line()))
        self.leave()
        self._connection.close()

    async def _run(self, scope: dict[str, Any]) -> None:
        endpoint, begun_at = self._connection.endpoint, asyncio.get_running_loop().time()
        endpoint.requests.begin()
        try:
            if endpoint.accounting.begin is not None:
                endpoint.accounting.begin(scope)
            await endpoint.app(scope, self._receive, self._send)
        except Exception as error:  # noqa: BLE001 - the accounting logs it
            endpoint.accounting.log_failure(scope, error)
        finally:
            endpoint.requests.end()
            self._call_back(AT_ANSWER)
            self._call_back(AT_END)
        if not self._is_answered and not self._is_left:
            self.refuse(_FAILURE)
        endpoint.accounting.charge(scope, self._meter.take_seconds())
        seconds = asyncio.get_running_loop().time() - begun_at
        for report in endpoint.accounting.reports:
            report(scope, self._answer.status, self._answer.body_bytes, seconds)

    def _call_back(self, event: str) -> None:
        for call in self.state.pop(event, ()):
            call()

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
                connection.update_reading()
                return {"type": "http.request", "body": body, "more_body": not self._is_body_taken}
            if self._is_left:
                break
            await self._wait()
        return {"type": "http.disconnect"}

    async def _wait(self) -> None:
        """Return when more of the body has arrived or the client has disconnected; raise `TooSlow` for a late body."""
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        if self._connection.reader.is_complete:
            await self._waiter
            return
        endpoint = self._connection.endpoint
        if self._deadline is None:
            limits = endpoint.limits
            self._deadline = loop.time() + limits.body_seconds_of.get(self._scope["path"], limits.body_seconds)
        if AUTHENTICATED not in self.state:
            endpoint.unproven[self._connection] = None
        try:
            async with asyncio.timeout_at(self._deadline):
                await self._waiter
        except TimeoutError:
            self.state[CLOSES] = True
            raise TooSlow from None
        finally:
            endpoint.unproven.pop(self._connection, None)

    async def _send(self, message: Mapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self._call_back(AT_ANSWER)
        if self._is_left or self._is_answered:
            return
        if message["type"] == "http.response.start":
            if self._is_small():
                await self._discard()
            if self._head.method == "HEAD":
                self._connection.write(self._encode_head(message, None))
                await self._end()
            else:
                self._start = message
                asyncio.get_running_loop().call_soon(self._send_head)
            return
        await self._send_body(message.get("body", b""), is_last=not message.get("more_body", False))

    async def _send_body(self, body: bytes | memoryview, *, is_last: bool) -> None:
        """Send a part of the body, after the head unless that has been sent."""
        start = self._take_start(len(body) if is_last else None)
        if is_last:
            self._connection.endpoint.accounting.count_answer(self._scope, len(body))
        if self._compressor is not None:
            body = await self._compress(self._compressor, body, is_last=is_last)
        head = b"" if start is None else self._encode_head(start, len(body) if is_last else None)
        await self._write((head, *self._answer.encode_body(body, is_last=is_last)))
        if is_last:
            await self._end()

    async def _end(self) -> None:
        """Let the connection continue with its next request, or close it once the rest of the body is discarded."""
        await self._discard()
        if not self._is_left:
            self._is_answered = True
            self.wake()
            self._connection.answered(closes=self._answer.closes or not self._answer.is_whole)

    def _is_small(self) -> bool:
        announced = dict(self._head.headers).get(b"content-length", b"")
        return announced != b"" and int(announced) <= SMALL_BODY_BYTES and not self._awaits_permission

    async def _discard(self) -> None:
        """Read the rest of the body and discard it, within the limits of bytes and of time.

        The large bodies of all clients together take turns as one client's work, since discarding them helps no client.
        """
        endpoint, reader = self._connection.endpoint, self._connection.reader
        left, left_in_turn = endpoint.limits.body_bytes, SMALL_BODY_BYTES
        is_late = self._deadline is not None and self._deadline <= asyncio.get_running_loop().time()
        if reader.is_complete or is_late:
            return
        with suppress(TimeoutError, TooSlow):
            async with asyncio.timeout(endpoint.limits.discard_seconds):
                while left >= 0 and not self._is_left and not reader.is_complete:
                    if left_in_turn <= 0:
                        await endpoint.turns.wait_for_turn(endpoint)
                        left_in_turn = DISCARDED_IN_TURN_BYTES
                    size = len((await self._receive()).get("body", b""))
                    left, left_in_turn = left - size, left_in_turn - size

    async def _write(self, parts: Sequence[bytes | memoryview]) -> None:
        """Send in pieces as the client reads them: a transport would buffer everything at once.

        A piece of a large part is a copy, so that the transport's buffer does not keep the whole part in memory.
        """
        connection = self._connection
        if sum(map(len, parts)) <= PIECE_BYTES:
            parts = (b"".join(parts),)
        for part in parts:
            for start in range(0, len(part), PIECE_BYTES):
                if start:
                    await connection.endpoint.turns.wait_for_turn(connection.address_group or connection)
                connection.write(bytes(part[start : start + PIECE_BYTES]))
                await connection.wait_until_writable()

    def _send_head(self) -> None:
        """Send the head of an answer whose body does not follow at once."""
        start = self._take_start(None)
        if start is None or self._is_left:
            return
        try:
            self._connection.write(self._encode_head(start, None))
        except ValueError:
            logger.exception("the app sent an invalid head")
            self.refuse(_FAILURE)

    def _take_start(self, length: int | None) -> Mapping[str, Any] | None:
        """Return the buffered start of the answer once; `length` is that of the whole body, unless it is a stream.

        The first call chooses the encoding of the body.
        """
        start, self._start = self._start, None
        if start is None or not self.state.get(AUTHENTICATED):
            return start
        name = choose_encoding(self._head.headers, start, length)
        if name is None:
            return start
        self._compressor = compressor_of(name)
        return encoded_start(start, name)

    async def _compress(self, compressor: Compressor, body: bytes | memoryview, *, is_last: bool) -> bytes:
        """Return a part of the body, compressed in turns."""
        connection, pieces = self._connection, []
        for begin in range(0, len(body), STEP_BYTES):
            if begin:
                await connection.endpoint.turns.wait_for_turn(connection.address_group or connection)
            pieces.append(compressor.compress(body[begin : begin + STEP_BYTES]))
        if is_last:
            pieces.append(compressor.flush())
        return b"".join(pieces)

    def _encode_head(self, start: Mapping[str, Any], length: int | None) -> bytes:
        head, endpoint = self._head, self._connection.endpoint
        is_unread = not self._connection.reader.is_complete
        self._answer.closes = is_unread or self._connection.reader.is_last or endpoint.is_ending or CLOSES in self.state
        return self._answer.encode_head(start, head.method, head.version, endpoint.date_line(), length)
