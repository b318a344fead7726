"""Read requests from the bytes of a connection; llhttp, a strict parser in C, parses them.

llhttp receives a whole head at once, and no more of a body than was announced. So the bytes after a request stay
unparsed, however much a client sends ahead. Only llhttp can find the end of a chunked body. If the same piece also
contains bytes of the next request, these are lost, and the connection must close.
"""

from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

import msgspec
from httptools import HttpParserError, HttpParserInvalidURLError, HttpParserUpgrade, HttpRequestParser, parse_url

HEAD_BYTES_MAXIMUM = 16 * 1024
CHUNK_EXTRAS_BYTES_MAXIMUM = 64 * 1024
"""The maximum size of chunk extensions between two chunks, or of the trailers after the last chunk."""

_HEAD_END = b"\r\n\r\n"
_VERSIONS = (b" HTTP/1.1", b" HTTP/1.0")
"""llhttp also accepts requests of RTSP and ICE, so the version is checked here."""


class Refused(Exception):
    """The bytes are not a valid or supported request; the connection must close."""

    def __init__(self, status: HTTPStatus, detail: str) -> None:
        super().__init__(detail)
        self.status = status


class Head(msgspec.Struct, frozen=True):
    """The part of a request before its body; header names are in lower case."""

    method: str
    version: str
    path: str
    raw_path: bytes
    query_string: bytes
    headers: list[tuple[bytes, bytes]]


class RequestReader:
    """Reads one request, and after `restart` the next one. llhttp calls the methods named `on_…`."""

    __slots__ = (
        "_body",
        "_body_left",
        "_extras_bytes",
        "_fault",
        "_headers",
        "_is_overrun",
        "_parser",
        "_target",
        "_unread",
        "body_bytes",
        "head",
        "is_complete",
        "is_last",
    )

    def __init__(self) -> None:
        self._parser: Any = HttpRequestParser(self)
        self._unread = b""
        self.restart()

    def restart(self) -> None:
        """Wait for the next request."""
        self.head: Head | None = None
        self.is_complete = False
        """Whether the body has ended."""

        self.is_last = False
        """Whether the connection must close after the answer."""

        self.body_bytes = 0
        """The size of the body parts that `take_body` has not returned yet."""

        self._body: list[bytes] = []
        self._body_left: int | None = 0
        self._extras_bytes = 0
        self._is_overrun = False
        """Whether another request has begun in the same piece as the end of a chunked body."""

        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._fault: Refused | None = None

    def close(self) -> None:
        """Stop reading, and release the parser, which refers to this reader."""
        self._parser = None

    def read(self, data: bytes) -> bytes:
        """Read the bytes of the current request, and return the bytes after it; raises `Refused`."""
        while data and self.head is None:
            data = self._read_head(self._unread + data if self._unread else data)
        if data and not self.is_complete:
            data = self._read_body(data)
        return data

    def take_body(self) -> bytes:
        """Return the bytes of the body that have arrived since the last call."""
        body, self._body, self.body_bytes = self._body, [], 0
        return body[0] if len(body) == 1 else b"".join(body)

    def _read_head(self, data: bytes) -> bytes:
        """Read a head; empty lines may precede it."""
        data = data.lstrip(b"\r\n")
        size = data.find(_HEAD_END) + len(_HEAD_END)
        is_whole = size >= len(_HEAD_END)
        if (size if is_whole else len(data)) > HEAD_BYTES_MAXIMUM:
            detail = f"The head of a request must not exceed {HEAD_BYTES_MAXIMUM} bytes."
            raise Refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, detail)
        if not is_whole:
            self._unread = data
            return b""
        self._unread = b""
        self._parse(data[:size])
        if not data[: data.find(b"\r\n")].endswith(_VERSIONS):
            raise Refused(HTTPStatus.BAD_REQUEST, "This is not HTTP/1.1.")
        return data[size:]

    def _read_body(self, data: bytes) -> bytes:
        left = self._body_left
        if left is not None:
            self._body_left = left - min(left, len(data))
            self._parse(data[:left])
            return data[left:]
        self._extras_bytes += len(data)
        self._parse(data)
        if self._extras_bytes > CHUNK_EXTRAS_BYTES_MAXIMUM:
            detail = f"Chunk extensions and trailers must not exceed {CHUNK_EXTRAS_BYTES_MAXIMUM} bytes."
            raise Refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, detail)
        return b""

    def _parse(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            if self._is_overrun:
                return
            raise Refused(HTTPStatus.NOT_IMPLEMENTED, "This server does not switch to another protocol.") from None
        except HttpParserError as error:
            if self._is_overrun:
                return
            raise Refused(HTTPStatus.BAD_REQUEST, f"This is not HTTP/1.1: {error}.") from None
        if self._fault is not None:
            raise self._fault

    def on_message_begin(self) -> None:
        """Note the start of a request; llhttp sees the start of another one only after a chunked body."""
        self._is_overrun = self.is_last = self.is_complete

    def on_url(self, url: bytes) -> None:
        """Append a part of the target."""
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a header; ignore trailers."""
        if self.head is not None:
            return
        name = name.lower()
        self._headers.append((name, value))
        if name == b"content-length":
            self._body_left = int(value)
        elif name == b"transfer-encoding":
            self._body_left = None
            if value.lower() != b"chunked":
                self._fault = Refused(HTTPStatus.NOT_IMPLEMENTED, "The only supported transfer coding is chunked.")

    def on_headers_complete(self) -> None:
        """Build the head and check its version and its Host header."""
        parser = self._parser
        if self.head is not None:
            return
        version = parser.get_http_version()
        if version not in {"1.0", "1.1"}:
            self._fault = Refused(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "This server supports HTTP/1.1 only.")
        elif version == "1.1" and sum(name == b"host" for name, _ in self._headers) != 1:
            self._fault = Refused(HTTPStatus.BAD_REQUEST, "A request needs exactly one Host header.")
        path, _, query = self._target.partition(b"?")
        if not path.startswith(b"/"):
            path = self._path_of_absolute_target()
        self.is_last = version == "1.0" or not parser.should_keep_alive()
        method = parser.get_method().decode()
        self.head = Head(method, version, unquote(path.decode()), path, query, self._headers)

    def _path_of_absolute_target(self) -> bytes:
        """Return the path of a target in absolute form (RFC 9112, 3.2.2), or the asterisk."""
        try:
            return parse_url(self._target).path or b"/"
        except HttpParserInvalidURLError:
            return self._target  # no route has such a path, so the answer is 404

    def on_body(self, data: bytes) -> None:
        """Append a part of the body."""
        if not self.is_complete:
            self._body.append(data)
            self.body_bytes += len(data)
            self._extras_bytes = 0

    def on_message_complete(self) -> None:
        """Note the end of the request."""
        self.is_complete = True
