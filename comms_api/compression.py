"""Decode compressed bodies piece by piece, within bounds for bytes, frames, and time on the event loop."""

import zlib
from typing import Protocol

import zstandard

from comms_api.errors import Malformed

FRAMES_MAXIMUM = 64
"""The maximum number of frames (zstd) or members (gzip) of a body: even an empty frame costs time."""

PIECE_BYTES = 256 * 1024
ZSTD_WINDOW_BYTES = 8 * 2**20
"""The window size that RFC 9659 requires HTTP receivers to support."""

ZSTD_STEP_BYTES = 256
"""The input of one decoding step. A block of 4 bytes may hold 128 KiB, so a step produces 8 MiB at most."""

_GZIP = 16 + zlib.MAX_WBITS
_SKIPPABLE = range(0x184D2A50, 0x184D2A60)
"""The magic numbers of frames without content (RFC 8878, 3.1.2)."""

_SKIPPABLE_HEADER_BYTES = 8


class Decoder(Protocol):
    """Decodes one body."""

    @property
    def is_done(self) -> bool:
        """Whether the whole body has been decoded."""

    def decode_piece(self) -> bytes:
        """Return the next piece, of about `PIECE_BYTES`; raises `Malformed`."""


def decoder_of(encoding: str, raw: bytes) -> Decoder:
    """Return a decoder for gzip or zstd."""
    return _Gzip(raw) if encoding == "gzip" else _Zstd(raw)


def decompress_frame(raw: bytes | memoryview, bytes_maximum: int) -> bytes | None:
    """Return the content of a body that is a single zstd frame of known size, in one step.

    Returns None for larger contents and for all other bodies: a `Decoder` reads them, or names the fault.
    """
    try:
        if not 0 < zstandard.frame_content_size(raw) <= bytes_maximum:
            return None
        return _zstd_decompressor().decompress(raw, allow_extra_data=False)
    except zstandard.ZstdError:
        return None


def _zstd_decompressor() -> zstandard.ZstdDecompressor:
    return zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES)


def _count_frame(count: int) -> int:
    if count == FRAMES_MAXIMUM:
        raise Malformed(f"The body has more than {FRAMES_MAXIMUM} compressed frames.")
    return count + 1


class _Gzip:
    """Consecutive members (RFC 1952)."""

    def __init__(self, raw: bytes) -> None:
        self._raw = memoryview(raw)
        self._member = zlib.decompressobj(_GZIP)
        self._members = _count_frame(0)

    @property
    def is_done(self) -> bool:
        return self._member.eof and not self._raw

    def decode_piece(self) -> bytes:
        if self._member.eof:
            self._members = _count_frame(self._members)
            self._member = zlib.decompressobj(_GZIP)
        step = self._raw[:PIECE_BYTES]  # zlib copies the rest
        try:
            piece = self._member.decompress(step, PIECE_BYTES)
        except zlib.error:
            raise Malformed("The body is not valid gzip.") from None
        left = len(self._member.unused_data if self._member.eof else self._member.unconsumed_tail)
        self._raw = self._raw[len(step) - left :]
        if self._member.eof:
            self._skip_padding()
        elif not self._raw and not piece:
            raise Malformed("The body is not valid gzip: it ends too early.")
        return piece

    def _skip_padding(self) -> None:
        """Skip the zeros that may follow a member."""
        while self._raw and self._raw[0] == 0:
            step = bytes(self._raw[:PIECE_BYTES])
            self._raw = self._raw[len(step) - len(step.lstrip(b"\0")) :]


class _Zstd:
    """Consecutive frames (RFC 8878)."""

    def __init__(self, raw: bytes) -> None:
        self._raw = memoryview(raw)
        self._frames = 0
        self._frame: zstandard.ZstdDecompressionObj | None = None

    @property
    def is_done(self) -> bool:
        return self._frame is None and not self._raw and self._frames > 0

    def decode_piece(self) -> bytes:
        # A small frame is decoded at once, since steps take twice as long.
        if not self._frames and (whole := decompress_frame(self._raw, PIECE_BYTES)) is not None:
            self._raw, self._frames = self._raw[:0], 1
            return whole
        pieces: list[bytes] = []
        size = 0
        while size < PIECE_BYTES and not self.is_done:
            pieces.append(self._decode_step())
            size += len(pieces[-1])
        return b"".join(pieces)

    def _decode_step(self) -> bytes:
        if self._frame is None:
            self._frames = _count_frame(self._frames)
            if self._skip_frame():
                return b""
            self._frame = _zstd_decompressor().decompressobj()
        step = self._raw[:ZSTD_STEP_BYTES]
        try:
            piece = self._frame.decompress(step)
        except zstandard.ZstdError:
            raise Malformed("The body is not valid zstd.") from None
        self._raw = self._raw[len(step) - len(self._frame.unused_data) :]
        if self._frame.eof:
            self._frame = None
        elif not self._raw:
            raise Malformed("The body is not valid zstd: it ends too early.")
        return piece

    def _skip_frame(self) -> bool:
        """Skip the next frame if it has no content."""
        if int.from_bytes(self._raw[:4], "little") not in _SKIPPABLE:
            return False
        size = _SKIPPABLE_HEADER_BYTES + int.from_bytes(self._raw[4:_SKIPPABLE_HEADER_BYTES], "little")
        if len(self._raw) < size:
            raise Malformed("The body is not valid zstd: it ends too early.")
        self._raw = self._raw[size:]
        return True
