"""Serve a site with hypercorn. Everything of hypercorn that this project relies on is in this module."""

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from email.utils import formatdate
from functools import partial
from typing import Any

from hypercorn.asyncio import run as hypercorn_run
from hypercorn.asyncio import serve as serve_asgi
from hypercorn.asyncio import tcp_server, worker_context
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.h11 import H11Protocol

from comms_api.app.apis import AsgiApp
from comms_api.app.listeners import BACKLOG
from comms_api.app.sites import KEEP_ALIVE_SECONDS, Site

CONNECTION_REQUESTS_MAXIMUM = 10_000_000
"""Hypercorn closes a connection after 1,000 requests unless told otherwise."""

HANDSHAKE_SECONDS = 20.0
HELD_BACK_BYTES_MAXIMUM = 16 * 1024
"""How much of an answer waits for what follows it at once: a record of TLS."""

LOOK_SECONDS = 1.0
"""How often a connection that nobody reads is looked at: whether its client has left."""

_CLIENT_NAME: ContextVar[str | None] = ContextVar("client_name", default=None)


async def serve(site: Site, ended: asyncio.Event) -> None:
    """Serve a site until the event is set."""
    setattr(hypercorn_run, "TCPServer", _Connection)  # noqa: B010 - no other way
    config = _config(site)
    site.renewals.append(config.renew_certificate)

    async def end() -> None:
        await ended.wait()
        for connection in list(config.idle):
            connection.end()

    app = NamedClients(site.app) if site.asks_names else site.app
    await serve_asgi(app, config, shutdown_trigger=end, mode="asgi")


class _Config(Config):
    """What the connections of a site share."""

    def __init__(self) -> None:
        super().__init__()
        self.idle: set[_Connection] = set()
        self._context: ssl.SSLContext | None = None
        self._date_headers: list[tuple[bytes, bytes]] = []
        self._dated_at = 0

    def create_ssl_context(self) -> ssl.SSLContext | None:
        """Return a context that gives out no tickets: making two costs more than a resumed handshake saves (P-256)."""
        context = super().create_ssl_context()
        if context is not None:
            context.num_tickets = 0
        self._context = context
        return context

    def renew_certificate(self) -> None:
        """Have new connections see the certificate that the files hold now; those that are there go on."""
        if self._context is not None and self.certfile is not None:
            self._context.load_cert_chain(self.certfile, self.keyfile)

    def response_headers(self, _protocol: str) -> list[tuple[bytes, bytes]]:
        """Return the headers of every answer: the date (RFC 9110, 6.6.1), which is made once a second."""
        now = int(time.time())
        if now != self._dated_at:
            self._date_headers, self._dated_at = [(b"date", formatdate(now, usegmt=True).encode())], now
        return self._date_headers


class _Connection(tcp_server.TCPServer):
    """A connection that does less for each request than hypercorn's: one write of an answer, and no task but the app's.

    It knows whom its client's certificate names; hypercorn does not tell its apps. And a client that waits to be asked
    for its body (RFC 9110, 10.1.1) is asked when the app wants it, which may refuse it unread.
    """

    config: _Config
    app: Any

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.idle_task = _IdleTimer(self)
        self._asgi_app, self.app = self.app, self._call_app
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0
        self._is_unanswered = False
        self._permission = b""

    async def run(self) -> None:
        """Serve the connection; its requests are tasks that inherit the name."""
        tls = self.writer.get_extra_info("ssl_object")
        _CLIENT_NAME.set(common_name(tls.getpeercert()) if tls is not None else None)
        try:
            await super().run()
        finally:
            self._break_circles()

    async def _read_data(self) -> None:
        """Read what the client sends, until it leaves."""
        if isinstance(self.protocol.protocol, H11Protocol):
            self.protocol.protocol.can_read = _Turn(self)
        await super()._read_data()

    def _break_circles(self) -> None:
        """Forget what points back here: the connection's buffers would stay until circles are looked for."""
        for name in ("protocol", "idle_task", "app", "_task_group"):
            vars(self).pop(name, None)
        if (error := self.reader.exception()) is not None:
            error.__traceback__ = None

    async def protocol_send(self, event: Event) -> None:
        """Send bytes, together with those that follow at once; or close; or become idle or busy."""
        if not isinstance(event, RawData):
            self._is_unanswered = isinstance(event, Updated) and not event.idle
            self._flush()
            await super().protocol_send(event)
            return
        if self._is_kept_back(event.data):
            return
        if not self._unsent:
            self.loop.call_soon(self._flush)
        self._unsent.append(event.data)
        self._unsent_bytes += len(event.data)
        if self._unsent_bytes > HELD_BACK_BYTES_MAXIMUM:
            self._flush()
        with suppress(OSError):  # whoever reads learns of it as well, and ends the connection
            await self.writer.drain()

    def _is_kept_back(self, data: bytes) -> bool:
        """Keep a 100, which hypercorn makes at once; forget it when there is an answer instead."""
        is_first, self._is_unanswered = self._is_unanswered, False
        self._permission = data if is_first and data.startswith(b"HTTP/1.1 100 ") else b""
        return bool(self._permission)

    def _call_app(self, scope: Any, receive: Callable[[], Awaitable[Any]], *others: Any) -> Any:
        return self._asgi_app(scope, partial(self._receive, receive) if self._permission else receive, *others)

    async def _receive(self, receive: Callable[[], Awaitable[Any]]) -> Any:
        """Let a client that waits for it send its body, now that the app wants it, and return what comes."""
        if self._permission:
            await self.protocol_send(RawData(data=self._permission))
        return await receive()

    async def _close(self) -> None:
        with suppress(OSError):  # a client that does not take its leave in time is no fault of the app that answered it
            await super()._close()

    def _flush(self) -> None:
        unsent, self._unsent, self._unsent_bytes = b"".join(self._unsent), [], 0
        if unsent and not self.writer.is_closing():
            self.writer.write(unsent)

    def end(self) -> None:
        """Close an idle connection."""
        self._task_group.spawn(self._initiate_server_close)


class _Turn(worker_context.EventWrapper):
    """Where a connection waits when its client has sent more than a request, until that request is answered.

    It reads nothing meanwhile, and so would not notice that the client leaves: a poll would be held, and given orders,
    for nobody.
    """

    def __init__(self, connection: _Connection) -> None:
        super().__init__()
        self._connection = connection

    async def wait(self) -> None:
        """Wait for the answer; a client that has left meanwhile is told of as if it had been read."""
        while not self.is_set():
            if self._connection.writer.is_closing():
                await self._connection.protocol.handle(Closed())
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await super().wait()


class _IdleTimer(worker_context.AsyncioSingleTask):
    """Ends a connection that is idle for too long; hypercorn's starts a task for it after each request."""

    def __init__(self, connection: _Connection) -> None:
        super().__init__()
        self._connection = connection
        self._timer: asyncio.TimerHandle | None = None

    async def restart(self, _task_group: Any, _action: Any) -> None:
        """Begin to wait."""
        await self.stop()
        connection = self._connection
        self._timer = connection.loop.call_later(connection.config.keep_alive_timeout, connection.end)
        connection.config.idle.add(connection)

    async def stop(self) -> None:
        """Wait no more."""
        self._connection.config.idle.discard(self._connection)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class NamedClients:
    """Wraps an ASGI app and tells it, by the `tls` extension of ASGI, whom the client's certificate names."""

    def __init__(self, app: AsgiApp) -> None:
        """Take the app."""
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            scope["extensions"] = {**(scope.get("extensions") or {}), "tls": {"client_cert_name": _CLIENT_NAME.get()}}
        await self._app(scope, receive, send)


def common_name(certificate: Mapping[str, Any] | None) -> str | None:
    """Return the common name of a certificate's subject, as `ssl` describes it; None without a certificate.

    One that has no such name, or several, names nobody: the empty string.
    """
    if not certificate:
        return None
    names = [value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
    return str(names[0]) if len(names) == 1 else ""


def _config(site: Site) -> _Config:
    config = _Config()
    # Hypercorn closes the descriptor that it is given.
    config.bind = [f"fd://{site.listener.dup().detach()}"]
    config.certfile, config.keyfile = str(site.certificate.chain), str(site.certificate.key)
    config.alpn_protocols = ["http/1.1"]
    config.backlog = BACKLOG
    config.keep_alive_timeout = KEEP_ALIVE_SECONDS
    config.keep_alive_max_requests = CONNECTION_REQUESTS_MAXIMUM
    config.ssl_handshake_timeout = HANDSHAKE_SECONDS
    config.graceful_timeout = site.settings.drain_seconds
    config.loglevel = "WARNING"
    if site.asks_names:
        config.ca_certs = str(site.settings.client_ca)
        is_required = site.settings.client_certificates == "required"
        config.verify_mode = ssl.CERT_REQUIRED if is_required else ssl.CERT_OPTIONAL
    return config
