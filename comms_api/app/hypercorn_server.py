"""Serve a site with hypercorn. Nothing else in this project knows hypercorn.

Hypercorn listens, makes the TLS context and runs the app's lifespan. `comms_api.http1` serves the connections that it
accepts.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Any

import msgspec
from hypercorn.asyncio import run as hypercorn_run
from hypercorn.asyncio import serve as serve_asgi
from hypercorn.config import Config

from comms_api.app.apis import AsgiApp
from comms_api.app.certificates import Certificate
from comms_api.app.listeners import BACKLOG
from comms_api.http1.connection import Connection
from comms_api.http1.endpoint import Endpoint, Limits
from comms_api.settings import Settings

KEEP_ALIVE_SECONDS = 30.0
HANDSHAKE_SECONDS = 20.0
FIRST_BYTES_MAXIMUM = 2**20
"""More than a stream holds."""


class Site(msgspec.Struct, frozen=True):
    """One ASGI app on one socket that already listens; `asks_names` requests client certificates."""

    app: AsgiApp
    listener: socket.socket
    certificate: Certificate
    settings: Settings
    asks_names: bool = False
    renewals: list[Callable[[], None]] = []
    """Functions that read the certificate files again; `serve` adds one."""


async def serve(site: Site, ended: asyncio.Event) -> None:
    """Serve until `ended` is set; then accept nothing new, close idle connections, and return when none is left."""
    setattr(hypercorn_run, "TCPServer", _adopt)  # noqa: B010 - no other way
    settings = site.settings
    limits = Limits(KEEP_ALIVE_SECONDS, settings.body_timeout_seconds, settings.body_bytes_maximum)
    endpoint = Endpoint(site.app, limits, asks_names=site.asks_names)
    config = _config(site, endpoint)
    site.renewals.append(config.renew_certificate)

    async def end() -> None:
        await ended.wait()
        endpoint.end()

    try:
        await serve_asgi(site.app, config, shutdown_trigger=end, mode="asgi")
        await endpoint.wait_until_closed()
    finally:
        endpoint.abort()


async def _adopt(*given: Any) -> None:
    """Serve a connection that hypercorn has accepted, in the stead of hypercorn's own class of that place."""
    _app, _loop, config, _context, _state, reader, writer = given
    transport = writer.transport
    connection = Connection(config.endpoint, transport.get_protocol())
    connection.connection_made(transport)
    first = b""
    try:
        first = await reader.read(FIRST_BYTES_MAXIMUM)
    except OSError as error:
        error.__traceback__ = None  # it refers to the reader, which keeps it
    finally:
        transport.set_protocol(connection)
        connection.data_received(first)
        if not first or reader.at_eof():
            connection.close()
            connection.connection_lost(None)  # its predecessor was told


class _Config(Config):
    """What hypercorn needs to know, and the connections of a site share."""

    endpoint: Endpoint

    def __init__(self) -> None:
        super().__init__()
        self._context: ssl.SSLContext | None = None

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
            self._context.load_cert_chain(self.certfile, self.keyfile, self.keyfile_password)


def _config(site: Site, endpoint: Endpoint) -> _Config:
    config = _Config()
    config.endpoint = endpoint
    # Hypercorn closes the descriptor that it is given.
    config.bind = [f"fd://{site.listener.dup().detach()}"]
    config.certfile, config.keyfile = str(site.certificate.chain), str(site.certificate.key)
    config.keyfile_password = ""  # nobody is to be asked for one
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
