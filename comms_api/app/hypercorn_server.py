"""Serve a site with hypercorn. Nothing else in this project knows hypercorn.

Hypercorn opens the server, makes the TLS context and runs the app's lifespan. Its event loop, `Loop`, hands the
connections to `comms_api.http1`.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
import uvloop
from hypercorn.asyncio import serve as serve_asgi
from hypercorn.config import Config, Sockets

from comms_api.app.certificates import Certificate
from comms_api.app.listeners import BACKLOG
from comms_api.http1.acceptor import Acceptor, Encryption
from comms_api.http1.endpoint import NO_ACCOUNTING, UNLIMITED, Accounting, AsgiApp, Endpoint, Limits
from comms_api.http1.forwarded import TrustedProxies
from comms_api.http1.requests import RequestCount
from comms_api.settings import Settings

KEEP_ALIVE_SECONDS = 30.0
HANDSHAKE_SECONDS = 20.0
SHUTDOWN_SECONDS = 1.0
"""The time to wait for the client's TLS close_notify; uvloop would wait half a minute."""


class Loop(uvloop.Loop):
    """An event loop that serves the sockets of sites by their endpoints."""

    def __init__(self) -> None:
        super().__init__()
        self.acceptors: dict[int, Callable[[socket.socket, Encryption], Acceptor]] = {}
        """The acceptor of each site, by the descriptor of its listening socket."""

        self.set_exception_handler(_log_unless_of_a_client)

    async def create_server(self, *arguments: Any, **options: Any) -> Any:
        """Return the acceptor of a site's socket, which replaces hypercorn's own protocol."""
        listener: socket.socket | None = options.get("sock")
        accept = self.acceptors.pop(listener.fileno(), None) if listener is not None else None
        if accept is None or listener is None:
            return await super().create_server(*arguments, **options)
        return accept(listener, Encryption(options["ssl"], options["ssl_handshake_timeout"], SHUTDOWN_SECONDS))


def _log_unless_of_a_client(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    if not isinstance(context.get("exception"), OSError):  # includes TLS errors and timeouts
        loop.default_exception_handler(context)


class Site(msgspec.Struct, frozen=True):
    """One ASGI app on one listening socket; `asks_names` requests client certificates."""

    app: AsgiApp
    listener: socket.socket
    certificate: Certificate
    settings: Settings
    connections_maximum: int = UNLIMITED
    asks_names: bool = False
    accounting: Accounting = NO_ACCOUNTING
    requests: RequestCount | None = None
    renewals: list[Callable[[], None]] = []
    """Functions that reload the certificate files; `serve` adds one."""


async def serve(site: Site, ended: asyncio.Event) -> None:
    """Serve in a `Loop` until `ended` is set; then stop accepting, close idle connections, and wait for the others."""
    proxies = TrustedProxies(site.settings.trusted_proxies, site.settings.forwarded_header)
    endpoint = Endpoint(site.app, _limits(site), site.accounting, site.requests, proxies)
    listener = site.listener.dup()  # the acceptor closes it
    loop = asyncio.get_running_loop()
    assert isinstance(loop, Loop)  # noqa: S101 - run_worker makes one
    loop.acceptors[listener.fileno()] = partial(Acceptor, endpoint, proxies=site.settings.proxy_protocol_from)
    config = _config(site, listener)
    site.renewals.append(config.renew_certificate)

    async def end() -> None:
        await ended.wait()
        endpoint.end()

    try:
        await serve_asgi(site.app, config, shutdown_trigger=end, mode="asgi")
        await endpoint.wait_until_closed()
    finally:
        endpoint.abort()


def _limits(site: Site) -> Limits:
    settings = site.settings
    return Limits(
        KEEP_ALIVE_SECONDS,
        settings.body_timeout_seconds,
        settings.body_bytes_maximum,
        connections=site.connections_maximum,
        stall_seconds=settings.answer_stall_seconds,
        connections_per_address=settings.connections_per_address_maximum or UNLIMITED,
        body_seconds_of={
            "/events/stateless": settings.stateless_body_timeout_seconds or settings.body_timeout_seconds,
            "/events/stateful": settings.stateful_body_timeout_seconds or settings.body_timeout_seconds,
        },
    )


class _Config(Config):
    """The options of hypercorn, the socket that it serves, and the TLS context that it makes from them."""

    def __init__(self, listener: socket.socket) -> None:
        super().__init__()
        self._listener = listener
        self._context: ssl.SSLContext | None = None

    def create_sockets(self) -> Sockets:
        """Return the listening socket unchanged; hypercorn would let child programs inherit it."""
        return Sockets([self._listener], [], [])

    def create_ssl_context(self) -> ssl.SSLContext | None:
        """Return a context without session tickets: making two costs more than a resumed handshake saves (P-256)."""
        context = super().create_ssl_context()
        if context is not None:
            context.num_tickets = 0  # of TLS 1.3
            context.options |= ssl.OP_NO_TICKET  # of TLS 1.2
        self._context = context
        return context

    def renew_certificate(self) -> None:
        """Reload the certificate files; only new connections use them."""
        if self._context is not None and self.certfile is not None:
            self._context.load_cert_chain(self.certfile, self.keyfile, self.keyfile_password)


def _config(site: Site, listener: socket.socket) -> _Config:
    config = _Config(listener)
    config.certfile, config.keyfile = str(site.certificate.chain), str(site.certificate.key)
    config.keyfile_password = ""  # OpenSSL must not ask for one
    config.alpn_protocols = ["http/1.1"]
    config.backlog = BACKLOG
    config.ssl_handshake_timeout = HANDSHAKE_SECONDS
    config.graceful_timeout = site.settings.drain_seconds
    config.loglevel = "WARNING"
    if site.asks_names:
        config.ca_certs = str(site.settings.client_ca)
        is_required = site.settings.client_certificates == "required"
        config.verify_mode = ssl.CERT_REQUIRED if is_required else ssl.CERT_OPTIONAL
    return config
