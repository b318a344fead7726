"""Read a request body within bounds: of bytes, decoded, and of all the bodies that a node holds."""

import asyncio
import gc
import gzip
import io
import zlib
from typing import TypeVar

import msgspec
import zstandard

from comms_api.database.coalescing import IS_CALLER_GONE
from comms_api.errors import ClientLeft, Malformed, TooLarge, Unavailable, UnsupportedEncoding
from comms_api.faults import describe_fault
from comms_api.http.authentication import subject_of
from comms_api.http.request import AnyRequest, departure_of, find_header, remote_address
from comms_api.settings import Settings

T = TypeVar("T")

DECOMPRESS_IN_THREAD_BYTES = 256 * 1024
CLIENTS_TO_FILL = 8
"""So many clients at least it takes to fill a node; each may always send one body."""

FAILED_BYTES_COLLECTED = 32 * 2**20
"""After bodies of so many bytes in all whose requests failed, what refers to itself is looked for."""

ZSTD_WINDOW_BYTES = 8 * 2**20
"""RFC 9659 asks no more of an HTTP receiver."""

ZSTD_STEP_BYTES = 1024
"""A frame is fed in steps: a block of 4 bytes may hold 128 KiB, so that a bomb goes off in pieces of 32 MiB at most."""


class BytesInFlight:
    """Counts the bytes of all bodies that a node holds, so that a full node refuses instead of growing.

    No client may hold more than a share of them, so that one that shouts fills its own share and not the node.
    """

    def __init__(self, maximum: int, share: int) -> None:
        """Take the most that may be held, by all and by one client."""
        self._maximum = maximum
        self._share = share
        self.held = 0
        self._failed = 0
        self._held_by: dict[str | None, int] = {}

    def take(self, client: str | None, size: int) -> None:
        """Count `size` bytes more of a client; raises `Unavailable` when that would be too many."""
        own = self._held_by.get(client, 0) + size
        if self.held + size > self._maximum:
            raise Unavailable("This node holds as many bytes as it may; come back later.")
        if own > self._share:
            raise Unavailable("This node holds as many bytes of yours as it may; wait for its answers.")
        self.held += size
        self._held_by[client] = own

    def give_back(self, client: str | None, size: int) -> None:
        """Count `size` bytes less."""
        self.held -= size
        own = self._held_by.get(client, 0) - size
        if own > 0:
            self._held_by[client] = own
        else:
            self._held_by.pop(client, None)

    def failed(self, size: int) -> None:
        """Note that a request with `size` bytes failed, and free those before it when they are many.

        An error and the frames that it went through refer to each other, in the drivers at the latest, so these bytes
        stay until circles are looked for; which goes by the number of objects, and a body may be one.
        """
        self._failed += size
        if self._failed >= FAILED_BYTES_COLLECTED:
            self._failed = 0
            gc.collect()


class Bodies:
    """Reads bodies for the agent API."""

    def __init__(self, settings: Settings) -> None:
        """Take the limits."""
        self._limit = settings.body_bytes_maximum
        maximum = settings.bytes_in_flight_maximum
        self.in_flight = BytesInFlight(maximum, max(maximum // CLIENTS_TO_FILL, self._limit))

    def receive(self, request: AnyRequest, limit: int | None = None) -> "_Body":
        """Return a block that begins with the decoded body, which counts as held until the block ends.

        A `limit` of its own is for those who have shown no token: what they announce counts as held as well.

        It raises `Unavailable` before reading when the node is full, `TooLarge`, `UnsupportedEncoding`,
        `Malformed` when the body is not what its Content-Encoding says, and `ClientLeft`: an abandoned request is
        neither parsed nor, if its client leaves before its turn comes, stored.
        """
        return _Body(request, self.in_flight, limit or self._limit)


class _Body:
    """One body, and what it holds of the bytes in flight."""

    __slots__ = ("_before", "_client", "_held", "_in_flight", "_limit", "_request")

    def __init__(self, request: AnyRequest, in_flight: BytesInFlight, limit: int) -> None:
        self._request = request
        self._client = subject_of(request.scope) or remote_address(request)
        self._in_flight = in_flight
        self._limit = limit
        self._held = 0

    async def __aenter__(self) -> bytes:
        encoding = (find_header(self._request.scope, b"content-encoding") or "identity").strip().lower()
        if encoding not in {"identity", "gzip", "zstd"}:
            raise UnsupportedEncoding
        try:
            self._hold(self._announced_bytes())
            raw = await self._read()
            body = raw if encoding == "identity" else await self._decompress(encoding, raw)
        except BaseException:
            self._give_back(is_failed=True)
            raise
        self._before = IS_CALLER_GONE.set(departure_of(self._request.scope))
        return body

    async def __aexit__(self, error: object, *_where: object) -> None:
        IS_CALLER_GONE.reset(self._before)  # else the task, its context and the connection would refer to each other
        self._give_back(is_failed=error is not None)

    def _give_back(self, *, is_failed: bool) -> None:
        self._in_flight.give_back(self._client, self._held)
        if is_failed:
            self._in_flight.failed(self._held)

    def _hold(self, size: int) -> None:
        """Count as held what the body is known to have by now; raises `TooLarge`, or `Unavailable`."""
        if size > self._limit:
            raise TooLarge(f"The body is larger than {self._limit} bytes after decoding.")
        if size > self._held:
            self._in_flight.take(self._client, size - self._held)
            self._held = size

    def _announced_bytes(self) -> int:
        announced = find_header(self._request.scope, b"content-length") or ""
        return int(announced) if announced.isdecimal() else 0

    async def _read(self) -> bytes:
        chunks, size, more = [], 0, True
        while more:
            message = await self._request.receive()
            if message["type"] != "http.request":
                raise ClientLeft
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            self._hold(size)
            more = message.get("more_body", False)
        if departure_of(self._request.scope)():
            raise ClientLeft
        return b"".join(chunks)

    async def _decompress(self, encoding: str, raw: bytes) -> bytes:
        try:
            if len(raw) > DECOMPRESS_IN_THREAD_BYTES:
                body = await asyncio.to_thread(_decompressed, encoding, raw, self._limit + 1)
            else:
                body = _decompressed(encoding, raw, self._limit + 1)
        except (OSError, EOFError, zlib.error, zstandard.ZstdError):
            raise Malformed(f"The body is not valid {encoding}.") from None
        self._hold(len(body))
        return body


def read_json(body: bytes, decoder: msgspec.json.Decoder[T], expected: str = "") -> T:
    """Return what a whole body says; raises `Malformed`, with what was expected.

    The encoding is checked first, since msgspec hands raw members on as they are.
    """
    try:
        body.decode()
        return decoder.decode(body)
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError) as error:
        prefix = f"Expected {expected}: " if expected else ""
        raise Malformed(prefix + describe_fault(error, body, decoder.type)) from None


def _decompressed(encoding: str, raw: bytes, limit: int) -> bytes:
    """Return at most `limit` bytes, so that a decompression bomb stops there."""
    if encoding == "gzip":
        with gzip.GzipFile(fileobj=io.BytesIO(raw)) as file:
            return file.read(limit)
    return _zstd_decompressed(raw, limit)


def _zstd_decompressed(raw: bytes, limit: int) -> bytes:
    """Return what the frames hold; raises `EOFError` when the last one is not whole, which a stream reader does not."""
    decompressor = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES)
    chunks, size, start, frame = [], 0, 0, decompressor.decompressobj()
    while size < limit and start < len(raw):
        if frame.eof:
            frame = decompressor.decompressobj()
        step = raw[start : start + ZSTD_STEP_BYTES]
        chunks.append(frame.decompress(step))
        size += len(chunks[-1])
        start += len(step) - len(frame.unused_data)
    if size < limit and not frame.eof:
        raise EOFError
    return b"".join(chunks)[:limit]
