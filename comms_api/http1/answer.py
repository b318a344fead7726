"""Encode answers as bytes (RFC 9112, 6)."""

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

from comms_api.http1.reader import Refused

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
NO_CONTENT, NOT_MODIFIED = 204, 304
STANDARD_HEADERS = {
    b"cache-control": b"no-store",
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
    b"referrer-policy": b"no-referrer",
    b"strict-transport-security": b"max-age=31536000",
    b"x-content-type-options": b"nosniff",
}
"""The headers of every answer, including refusals; an app may replace the value of each."""

_STANDARD_LINES = {name: b"%b: %b\r\n" % (name, value) for name, value in STANDARD_HEADERS.items()}
_ALL_STANDARD_LINES = b"".join(_STANDARD_LINES.values())
_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


class Answer:
    """Encodes the answer of an ASGI app: first the head, once, then the parts of the body."""

    __slots__ = ("_has_chunks", "_is_bodiless", "_left", "body_bytes", "closes", "is_begun", "status")

    def __init__(self) -> None:
        self.closes = False
        """Whether the connection closes after the answer; the app's headers can set this, too."""

        self.is_begun = False
        self.status: int | None = None
        self.body_bytes = 0
        """The length of the body so far."""

        self._is_bodiless = self._has_chunks = False
        self._left: int | None = None

    @property
    def is_whole(self) -> bool:
        """Whether the body has all the announced bytes."""
        return not self._left

    def encode_head(
        self, start: Mapping[str, Any], method: str, version: str, date_line: bytes, length: int | None
    ) -> bytes:
        """Return the head for a request's method and version; `length` is the length of the body, if it is known.

        The framing of the body does not depend on the app. Raises `ValueError` for a header with a line break.
        """
        self.status = status = start["status"]
        headers = start.get("headers", ())
        lines = [_STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status, date_line, _standard_lines(headers)]
        lines += [self._encode_header(status, name, value) for name, value in headers]
        self._is_bodiless = method == "HEAD" or status in {NO_CONTENT, NOT_MODIFIED}
        if self._is_bodiless:
            self._left = None
        elif self._left is None:
            lines.append(self._announcement(version, length))
        self.is_begun = True
        return b"".join((*lines, b"connection: close\r\n\r\n" if self.closes else b"\r\n"))

    def _encode_header(self, status: int, name: bytes, value: bytes) -> bytes:
        if b"\n" in name + value or b"\r" in name + value:
            raise ValueError("a header of an answer contains a line break")
        match name.lower():
            case b"connection":
                self.closes = self.closes or value.lower() == b"close"
                return b""
            case b"transfer-encoding":
                return b""
            case b"allow" if b"GET" in value:
                value += b", HEAD"  # a HEAD is served as a GET
            case b"content-length":
                self._left = int(value)
                if status == NO_CONTENT:
                    return b""
        return b"%b: %b\r\n" % (name, value)

    def _announcement(self, version: str, length: int | None) -> bytes:
        if length is not None:
            self._left = length
            return b"content-length: %d\r\n" % length
        if version == "1.0":
            self.closes = True  # the end of the connection ends the body
            return b""
        self._has_chunks = True
        return b"transfer-encoding: chunked\r\n"

    def encode_body(self, body: bytes | memoryview, *, is_last: bool) -> tuple[bytes | memoryview, ...]:
        """Return a part of the body with its framing; raises `ValueError` if the body exceeds its announced length."""
        if self._is_bodiless:
            return ()
        self.body_bytes += len(body)
        if self._left is not None:
            if len(body) > self._left:
                raise ValueError("the body of an answer is longer than its Content-Length")
            self._left -= len(body)
        elif self._has_chunks:
            chunk = (b"%x\r\n" % len(body), body, b"\r\n") if body else ()
            return (*chunk, b"0\r\n\r\n") if is_last else chunk
        return (body,)


def _standard_lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    names = {name.lower() for name, _ in headers}
    if names.isdisjoint(_STANDARD_LINES):
        return _ALL_STANDARD_LINES
    return b"".join(line for name, line in _STANDARD_LINES.items() if name not in names)


def encode_refusal(refused: Refused, date_line: bytes) -> bytes:
    """Return an answer that does not come from the app; the connection closes after it."""
    body = str(refused).encode()
    start = {"status": refused.status, "headers": [(b"content-type", b"text/plain")]}
    answer = Answer()
    answer.closes = True
    return answer.encode_head(start, "GET", "1.1", date_line, len(body)) + body
