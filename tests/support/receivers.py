"""Receive webhooks over TLS, in a thread, and answer as a test says."""

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import trustme

Answer = Callable[["Received"], int]


@dataclass
class Received:
    """One request."""

    headers: dict[str, str]
    body: bytes

    @property
    def events(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.body)["events"]
        return found


@dataclass
class Receiver:
    """A running receiver; `answer` returns the status of each request, and may wait; `retry_after` is a header."""

    port: int = 0
    answer: Answer = field(default=lambda _: 204)
    retry_after: str | None = None
    requests: list[Received] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)

    def url(self, host: str = "localhost") -> str:
        return f"https://{host}:{self.port}/hook"

    def events(self) -> list[dict[str, Any]]:
        return [event for request in list(self.requests) for event in request.events]


@contextmanager
def running_receiver(authority: trustme.CA, *hosts: str) -> Iterator[Receiver]:
    """Run a receiver whose certificate is for these hosts."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received = Received({name.lower(): value for name, value in self.headers.items()}, body)
            receiver.requests.append(received)
            self.send_response(receiver.answer(received))
            self.send_header("Location", receiver.url() + "-elsewhere")
            if receiver.retry_after is not None:
                self.send_header("Retry-After", receiver.retry_after)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*(hosts or ("localhost", "127.0.0.1"))).configure_cert(context)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    receiver.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield receiver
    finally:
        receiver.stopping.set()
        server.shutdown()
        server.server_close()
        thread.join()


def write_authority(authority: trustme.CA, file: Path) -> Path:
    """Write the certificate of an authority, and return the file."""
    authority.cert_pem.write_to_path(str(file))
    return file
