"""Compress answers for clients that accept it (RFC 9110, 12.5.3).

Only answers to requests with a valid token are compressed: no stranger can make the server spend the time, and answers
that contain tokens keep their length secret (BREACH).
"""

import zlib
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import zstandard

SMALLEST_BYTES = 1024
"""Smaller answers are not compressed, since they fit into one packet anyway."""

STEP_BYTES = 32 * 1024
"""The part of an answer to compress before other tasks run: gzip takes about 0.5 ms for it."""

PREFERRED = ("zstd", "gzip")
LEVEL = 1
ZSTD = zstandard.ZstdCompressionParameters.from_level(LEVEL, window_log=17)
"""A window of 128 KiB: an answer in progress holds less than 600 KiB."""

OFFERS_MAXIMUM = 16
"""The maximum number of encodings to read from an Accept-Encoding header."""

_GZIP = 16 + zlib.MAX_WBITS
_TYPES = tuple(
    b"text/plain text/csv text/html application/json application/problem+json application/x-ndjson"
    b" application/yaml application/vnd.oai.openapi".split()
)
"""Event streams are missing: each would hold its compressor for as long as it is open."""

_FIXED = frozenset({b"content-encoding", b"content-range", b"etag"})
"""Headers of answers whose bytes are fixed: a compressed file would be another representation with another ETag."""

Headers = Iterable[tuple[bytes, bytes]]


class Compressor(Protocol):
    """Compresses one answer, piece by piece."""

    def compress(self, data: bytes | memoryview, /) -> bytes:
        """Return the compressed bytes that are ready; they may lag behind the data."""

    def flush(self) -> bytes:
        """Return the end of the compressed answer."""


def compressor_of(encoding: str) -> Compressor:
    """Return a compressor for gzip or zstd."""
    if encoding == "gzip":
        return zlib.compressobj(LEVEL, zlib.DEFLATED, _GZIP)
    return zstandard.ZstdCompressor(compression_params=ZSTD).compressobj()


def choose_encoding(request_headers: Headers, start: Mapping[str, Any], length: int | None) -> str | None:
    """Return the encoding that the client prefers for an answer; None if the answer is not to be compressed.

    `length` is the length of the whole body; None for a stream.
    """
    if length is not None and length < SMALLEST_BYTES:
        return None
    headers = {name.lower(): value for name, value in start.get("headers", ())}
    is_fixed = not _FIXED.isdisjoint(headers) or (length is None and b"content-length" in headers)
    if is_fixed or not headers.get(b"content-type", b"").startswith(_TYPES):
        return None
    return _accepted(b",".join(value for name, value in request_headers if name == b"accept-encoding"))


def _accepted(offers: bytes) -> str | None:
    """Return the encoding with the highest weight in an Accept-Encoding header; zstd before gzip if they are equal."""
    weights = dict(map(_parse_offer, offers.decode("latin-1").lower().split(",")[:OFFERS_MAXIMUM]))
    best = max(PREFERRED, key=lambda name: weights.get(name, weights.get("*", 0.0)))
    return best if weights.get(best, weights.get("*", 0.0)) > 0 else None


def _parse_offer(offer: str) -> tuple[str, float]:
    name, _, parameter = offer.partition(";")
    key, _, weight = parameter.strip().partition("=")
    try:
        return name.strip(), float(weight) if key.strip() == "q" else 1.0
    except ValueError:
        return name.strip(), 0.0


def encoded_start(start: Mapping[str, Any], encoding: str) -> dict[str, Any]:
    """Return the `http.response.start` of a compressed answer, whose length is not known yet."""
    headers = [(name, value) for name, value in start["headers"] if name.lower() != b"content-length"]
    headers += [(b"content-encoding", encoding.encode()), (b"vary", b"accept-encoding")]
    return {**start, "headers": headers}
