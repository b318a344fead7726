"""Read a request body within bounds: of bytes, decoded, of time, and of all the bodies that a node holds."""

import asyncio
import gzip
import io
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar

import msgspec
import zstandard
from litestar.exceptions import InternalServerException

from comms_api.errors import Malformed, TooLarge, TooSlow, Unavailable, UnsupportedEncoding
from comms_api.http.request import AnyRequest
from comms_api.settings import Settings

T = TypeVar("T")

DECOMPRESS_IN_THREAD_BYTES = 256 * 1024
ZSTD_WINDOW_BYTES = 8 * 2**20
"""RFC 9659 asks no more of an HTTP receiver."""


class BytesInFlight:
    """Counts the bytes of all bodies that a node holds, so that a full node refuses instead of growing."""

    def __init__(self, maximum: int) -> None:
        """Take the most that may be held."""
        self._maximum = maximum
        self.held = 0

    def take(self, size: int) -> None:
        """Count `size` bytes more; raises `Unavailable` when that would be too many."""
        if self.held + size > self._maximum:
            raise Unavailable("This node holds as many bytes as it may; come back later.")
        self.held += size

    def give_back(self, size: int) -> None:
        """Count `size` bytes less."""
        self.held -= size


class _Share:
    """What one request holds of the bytes in flight."""

    def __init__(self, in_flight: BytesInFlight) -> None:
        self._in_flight = in_flight
        self.held = 0

    def grow(self, to: int) -> None:
        if to > self.held:
            self._in_flight.take(to - self.held)
            self.held = to


class Bodies:
    """Reads bodies for the agent API."""

    def __init__(self, settings: Settings) -> None:
        """Take the limits."""
        self._limit = settings.body_bytes_maximum
        self._timeout_seconds = settings.body_timeout_seconds
        self.in_flight = BytesInFlight(settings.bytes_in_flight_maximum)

    @asynccontextmanager
    async def receive(self, request: AnyRequest) -> AsyncIterator[bytes]:
        """Yield the decoded body, counted as held until the block ends.

        Raises `Unavailable` before reading when the node is full, `TooLarge`, `TooSlow`, `UnsupportedEncoding`,
        and `Malformed` when the body is not what its Content-Encoding says.
        """
        encoding = request.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in {"identity", "gzip", "zstd"}:
            raise UnsupportedEncoding
        with self._share() as share:
            share.grow(self._announced_bytes(request))
            raw = await self._read(request, share)
            yield raw if encoding == "identity" else await self._decompress(encoding, raw, share)

    @contextmanager
    def _share(self) -> Iterator[_Share]:
        share = _Share(self.in_flight)
        try:
            yield share
        finally:
            self.in_flight.give_back(share.held)

    def _announced_bytes(self, request: AnyRequest) -> int:
        announced = request.headers.get("content-length", "0")
        size = int(announced) if announced.isdecimal() else 0
        if size > self._limit:
            raise self._too_large()
        return size

    async def _read(self, request: AnyRequest, share: _Share) -> bytes:
        chunks, size = [], 0
        try:
            async with asyncio.timeout(self._timeout_seconds):
                async for chunk in request.stream():
                    size += len(chunk)
                    if size > self._limit:
                        raise self._too_large()
                    share.grow(size)
                    chunks.append(chunk)
        except TimeoutError:
            raise TooSlow from None
        except InternalServerException as error:
            raise Malformed("The client went away before the body was complete.") from error
        return b"".join(chunks)

    async def _decompress(self, encoding: str, raw: bytes, share: _Share) -> bytes:
        try:
            if len(raw) > DECOMPRESS_IN_THREAD_BYTES:
                body = await asyncio.to_thread(_decompressed, encoding, raw, self._limit + 1)
            else:
                body = _decompressed(encoding, raw, self._limit + 1)
        except (OSError, EOFError, zlib.error, zstandard.ZstdError):
            raise Malformed(f"The body is not valid {encoding}.") from None
        if len(body) > self._limit:
            raise self._too_large()
        share.grow(len(body))
        return body

    def _too_large(self) -> TooLarge:
        return TooLarge(f"The body is larger than {self._limit} bytes after decoding.")


def read_json(body: bytes, decoder: msgspec.json.Decoder[T], expected: str) -> T:
    """Return what a whole body says; raises `Malformed`, with what was expected.

    The encoding is checked first, since msgspec hands raw members on as they are.
    """
    try:
        body.decode()
        return decoder.decode(body)
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError) as error:
        raise Malformed(f"Expected {expected}: {error}") from None


def _decompressed(encoding: str, raw: bytes, limit: int) -> bytes:
    """Return at most `limit` bytes, so that a decompression bomb stops there."""
    if encoding == "gzip":
        with gzip.GzipFile(fileobj=io.BytesIO(raw)) as file:
            return file.read(limit)
    decompressor = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES)
    with decompressor.stream_reader(raw, read_across_frames=True) as reader:
        chunks, size = [], 0
        while size < limit and (chunk := reader.read(min(limit - size, 64 * 1024))):
            chunks.append(chunk)
            size += len(chunk)
        return b"".join(chunks)
