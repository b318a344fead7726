"""Raw TLS sockets, which send bytes that a client library would refuse to send, and show every byte of the answer."""

import socket
import ssl
from collections.abc import Iterable
from dataclasses import dataclass

from support.waiting import PATIENCE


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


def connect(tls: ssl.SSLContext, port: int) -> ssl.SSLSocket:
    plain = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return tls.wrap_socket(plain, server_hostname="127.0.0.1")


def request(method: str, path: str, token: str | None, body: bytes = b"", *headers: str) -> bytes:
    """Return a request with a Content-Length, unless `headers` say that the body is chunked."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close", *headers]
    if token:
        lines.append(f"Authorization: Bearer {token}")
    if body and not any("chunked" in header for header in headers):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def chunked(body: bytes, size: int) -> bytes:
    """Return `body` in chunks of `size` bytes."""
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def read_answer(connection: ssl.SSLSocket) -> Answer:
    """Read one complete answer."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += _receive(connection)
    head, _, body = received.partition(b"\r\n\r\n")
    status, *fields = head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
    while len(body) < int(headers.get("content-length", 0)):
        body += _receive(connection)
    return Answer(int(status.split()[1]), headers, body)


def _receive(connection: ssl.SSLSocket) -> bytes:
    data = connection.recv(65536)
    if not data:
        raise ConnectionError("closed before the answer ended")
    return data


def send_parts(tls: ssl.SSLContext, port: int, parts: Iterable[bytes]) -> Answer:
    """Send a request in parts, each in its own TLS record, and read the answer."""
    with connect(tls, port) as connection:
        for part in parts:
            connection.sendall(part)
        return read_answer(connection)
