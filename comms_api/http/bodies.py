"""Read request bodies within the budgets of their clients.

A body waits for its turn until the node can store it soon: a large one before it is read, a small one once it is
complete. The budget counts the bytes of a large body that have arrived, and reserves bounded room for the next ones.
Bodies that need more room get it in the order of their admission.
"""

import asyncio
import gc
from collections.abc import Hashable
from functools import partial
from io import BytesIO

from comms_api.compression import PIECE_BYTES, Decoder, decoder_of
from comms_api.database.coalescing import IS_CALLER_GONE
from comms_api.errors import ClientLeft, TooLarge, TooSlow, UnsupportedEncoding
from comms_api.fairness.admission import AdaptiveBudget, Holding
from comms_api.fairness.budgets import ByteBudget
from comms_api.fairness.executors import BoundedExecutor
from comms_api.fairness.rounds import RoundQueue
from comms_api.http.authentication import client_of
from comms_api.http.request import AnyRequest, at_end, close_afterwards, departure_of, find_header
from comms_api.settings import Settings

COPIES = 4
"""The number of copies of a body in memory while it is parsed and stored: raw, lines, rows, a statement."""

LINE_BYTES = 160
"""The memory that a line of a batch takes in addition to its bytes, until it has been stored."""

LINES_SHARE = 2
"""The lines of batches may take 1/LINES_SHARE of `bytes_in_flight_maximum`, and one client's lines half of that."""

SMALL_BODY_BYTES = 64 * 1024
SMALL_SHARE = 8
"""1/SMALL_SHARE of the bytes is reserved for small bodies, so that they never wait behind large bodies."""

ROOM_BYTES = 2 * 2**20
"""A large body reserves its announced length, at most this much; a body without a length reserves this much.

Agents send at most twice their megabyte.
"""

ROOM_SECONDS = 0.5
"""The time that the node waits for a body's client, in all, before the body loses the room that is not filled.

Afterwards, other bodies that need more room get it first.
"""

PUBLIC_BYTES_MAXIMUM = 8 * 1024
"""The largest body of a route without a token."""

JSON_BYTES_MAXIMUM = 2**20
"""The largest body of a route that reads JSON as a whole: one step of the event loop reads it, for up to 100 ms."""

INLINE_BYTES = 16 * 1024
"""Larger compressed bodies are decoded in a thread, and also small ones that expand."""

ENCODINGS = ("identity", "gzip", "zstd")
DECODER_THREADS = 1
DECODER_CALLS_MAXIMUM = 256

FAILED_BYTES_COLLECTED = 32 * 2**20
"""Collect young garbage after this many bytes of failed bodies: their tracebacks keep them alive in cycles."""

YOUNG = 1
"""The generations of objects up to this one: visiting all objects takes longer than all other steps."""


class Bodies:
    """Reads the bodies of one node's requests; each chunk of a large one waits for `turns`."""

    def __init__(self, settings: Settings, turns: RoundQueue) -> None:
        self._limit = settings.body_bytes_maximum
        self._public_seconds = settings.login_body_timeout_seconds
        total = settings.bytes_in_flight_maximum // COPIES
        small, wait_seconds = total // SMALL_SHARE, settings.body_wait_seconds
        self.small = AdaptiveBudget(small, SMALL_BODY_BYTES, wait_seconds)
        self.large = AdaptiveBudget(total - small, self._limit, wait_seconds)
        self.chunks = turns
        """The turns of large bodies' chunks. A connection reads nothing more until its chunk is taken."""

        lines = settings.bytes_in_flight_maximum // LINES_SHARE
        self._lines = ByteBudget(lines, lines // 2, wait_seconds)
        self._decoders = BoundedExecutor("decompression", DECODER_THREADS, DECODER_CALLS_MAXIMUM)
        self._failed_bytes = 0

    def receive(self, request: AnyRequest, bytes_maximum: int | None = None) -> "Reading":
        """Return a context manager that yields the decoded body and holds its bytes until the block ends.

        `body_bytes_maximum` applies unless the route passes a lower maximum.

        Raises `Unavailable` when there is no room in time, `TooLarge`, `UnsupportedEncoding`, `Malformed` for a body
        that does not match its Content-Encoding, and `ClientLeft`. An abandoned request is not parsed; if its client
        disconnects before its turn comes, it is not stored either.
        """
        return Reading(request, self, min(self._limit, bytes_maximum or self._limit))

    async def hold_lines(self, request: AnyRequest, lines: int) -> None:
        """Hold the additional memory of a batch's lines until the request ends.

        Raises `Unavailable` when there is no room in time.
        """
        size = lines * LINE_BYTES
        if size > SMALL_BODY_BYTES:
            client = client_of(request.scope)
            await self._lines.acquire(client, size)
            at_end(request.scope, partial(self._lines.release, client, size))

    async def receive_public(self, request: AnyRequest) -> bytes:
        """Return the body of a route without a token, of at most `PUBLIC_BYTES_MAXIMUM` bytes.

        No budget counts it: `http1` buffers as much for every connection, and the number of connections is limited.
        """
        encoding = _encoding_of(request)
        _refuse_if_larger(_announced_bytes(request), PUBLIC_BYTES_MAXIMUM)
        raw, more = b"", True
        try:
            async with asyncio.timeout(self._public_seconds):
                while more:
                    chunk, more = await _next_chunk(request)
                    raw += chunk
                    _refuse_if_larger(len(raw), PUBLIC_BYTES_MAXIMUM)
        except TimeoutError:
            close_afterwards(request.scope)
            raise TooSlow from None
        return raw if encoding == "identity" else _decode_small(encoding, raw)

    async def decode(self, client: Hashable, decoder: Decoder) -> bytes:
        """Return the next piece of a client's large body."""
        return await self._decoders.run(client, decoder.decode_piece)

    def collect_failed(self, size: int) -> None:
        """Note that a request with a body of `size` bytes has failed."""
        self._failed_bytes += size
        if self._failed_bytes >= FAILED_BYTES_COLLECTED:
            self._failed_bytes = 0
            gc.collect(YOUNG)


class Reading:
    """One body: the bytes that have arrived, and the bytes that it holds in the budgets."""

    __slots__ = (
        "_before",
        "_bodies",
        "_budget",
        "_held_by_all",
        "_holding",
        "_limit",
        "_request",
        "_room_seconds",
        "_size",
        "_working_since",
        "zstd",
    )

    def __init__(self, request: AnyRequest, bodies: Bodies, limit: int) -> None:
        self._request = request
        self._bodies = bodies
        self._limit = limit
        self._budget = bodies.small
        self._holding = Holding(client_of(request.scope))
        self._size = 0
        self._held_by_all = 0
        """The bytes that all requests held when this one was admitted."""

        self._working_since = 0.0
        """The time of admission, plus the waits for the client since then."""

        self._room_seconds = ROOM_SECONDS
        """The remaining time of `ROOM_SECONDS`."""

        self.zstd: bytes | None = None
        """The body as it arrived, if it was compressed by zstd."""

    async def __aenter__(self) -> bytes:
        """Return the decoded body."""
        try:
            body = await self._read()
        except BaseException:
            self._end(is_failed=True)
            raise
        self._before = IS_CALLER_GONE.set(departure_of(self._request.scope))
        return body

    async def __aexit__(self, error: object, *_where: object) -> None:
        """Release the body's bytes."""
        IS_CALLER_GONE.reset(self._before)  # else the task, its context and the connection would refer to each other
        if error is None:
            seconds = asyncio.get_running_loop().time() - self._working_since
            self._budget.learn(self._holding.size, self._held_by_all, seconds)
        self._end(is_failed=error is not None)

    def _end(self, *, is_failed: bool) -> None:
        self._budget.complete(self._holding, 0)
        if is_failed:
            self._bodies.collect_failed(self._size)

    async def _read(self) -> bytes:
        encoding, announced = _encoding_of(self._request), _announced_bytes(self._request)
        _refuse_if_larger(announced, self._limit)
        self._holding.may_grow = encoding != "identity" or not 0 < announced <= ROOM_BYTES
        if announced > SMALL_BODY_BYTES:
            await self._hold(min(announced, ROOM_BYTES))
        raw = await self._read_chunks()
        if departure_of(self._request.scope)():
            raise ClientLeft
        body = raw if encoding == "identity" else await self._decode(encoding, raw)
        self.zstd = raw if encoding == "zstd" else None
        self._budget.complete(self._holding, self._size)
        return body

    async def _read_chunks(self) -> bytes:
        chunks, more = BytesIO(), True  # its last step returns its buffer; joining 16 MB would be a step of 10 ms
        while more:
            if self._budget is self._bodies.large:
                await self._bodies.chunks.wait_for_turn(self._holding.client)
            chunk, more = await self._wait_for_chunk()
            chunks.write(chunk)
            self._size += len(chunk)
            if self._size > SMALL_BODY_BYTES or not more:
                await self._hold(self._size)
        return chunks.getvalue()

    async def _wait_for_chunk(self) -> tuple[bytes, bool]:
        """Return the next bytes of the body, and whether more follow."""
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        may_release = self._holding.size and self._room_seconds > 0
        timer = loop.call_later(self._room_seconds, self._release_room) if may_release else None
        try:
            return await _next_chunk(self._request)
        finally:
            if timer is not None:
                timer.cancel()
            waited_seconds = loop.time() - asked_at
            self._working_since += waited_seconds
            self._room_seconds -= waited_seconds

    def _release_room(self) -> None:
        self._budget.shrink(self._holding, self._size)
        self._budget.defer(self._holding)

    async def _decode(self, encoding: str, raw: bytes) -> bytes:
        decoder, pieces, size = decoder_of(encoding, raw), BytesIO(), 0
        while not decoder.is_done:
            is_small = len(raw) <= INLINE_BYTES and size < PIECE_BYTES
            size += pieces.write(
                decoder.decode_piece() if is_small else await self._bodies.decode(self._holding.client, decoder)
            )
            await self._hold(size)
        self._size = max(self._size, size)
        return pieces.getvalue()

    async def _hold(self, size: int) -> None:
        """Increase the held bytes to `size`, if they are fewer."""
        _refuse_if_larger(size, self._limit)
        if size <= self._holding.size:
            return
        if size > SMALL_BODY_BYTES and self._budget is self._bodies.small:
            if self._size:
                size = max(size, min(ROOM_BYTES, self._limit))
            self._budget.complete(self._holding, 0)
            self._budget = self._bodies.large
        is_new = not self._holding.size
        await self._budget.hold(self._holding, size - self._holding.size)
        if is_new:
            self._held_by_all, self._working_since = self._budget.held, asyncio.get_running_loop().time()


async def _next_chunk(request: AnyRequest) -> tuple[bytes, bool]:
    """Return the next bytes of the body and whether more follow; raises `ClientLeft` if its end does not arrive."""
    message = await request.receive()
    if message["type"] != "http.request":
        raise ClientLeft
    return message.get("body", b""), message.get("more_body", False)


def _decode_small(encoding: str, raw: bytes) -> bytes:
    decoder, body = decoder_of(encoding, raw), b""
    while not decoder.is_done:
        body += decoder.decode_piece()
        _refuse_if_larger(len(body), PUBLIC_BYTES_MAXIMUM)
    return body


def _refuse_if_larger(size: int, limit: int) -> None:
    if size > limit:
        raise TooLarge(f"The body is larger than {limit} bytes after decoding.")


def _encoding_of(request: AnyRequest) -> str:
    """Return the Content-Encoding; raises `UnsupportedEncoding`."""
    encoding = (find_header(request.scope, b"content-encoding") or "identity").strip().lower()
    if encoding not in ENCODINGS:
        raise UnsupportedEncoding
    return encoding


def _announced_bytes(request: AnyRequest) -> int:
    announced = find_header(request.scope, b"content-length") or ""
    return int(announced) if announced.isdecimal() else 0
