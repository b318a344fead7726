"""Serve a site with hypercorn. Everything of hypercorn that this project relies on is in this module."""

import asyncio
import ssl
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

from hypercorn.asyncio import run as hypercorn_run
from hypercorn.asyncio import serve as serve_asgi
from hypercorn.asyncio import tcp_server
from hypercorn.config import Config

from comms_api.app.apis import AsgiApp
from comms_api.app.listeners import BACKLOG
from comms_api.app.sites import KEEP_ALIVE_SECONDS, Site

CONNECTION_REQUESTS_MAXIMUM = 10_000_000
"""Hypercorn closes a connection after 1,000 requests unless told otherwise."""

HANDSHAKE_SECONDS = 20.0

_CLIENT_NAME: ContextVar[str | None] = ContextVar("client_name", default=None)


async def serve(site: Site, ended: asyncio.Event) -> None:
    """Serve a site until the event is set."""
    app = NamedClients(site.app) if site.asks_names else site.app
    await serve_asgi(app, _config(site), shutdown_trigger=ended.wait, mode="asgi")


class _Connection(tcp_server.TCPServer):
    """A connection that knows whom its client's certificate names; hypercorn does not tell its apps."""

    async def run(self) -> None:
        """Serve the connection; its requests are tasks that inherit the name."""
        tls = self.writer.get_extra_info("ssl_object")
        _CLIENT_NAME.set(common_name(tls.getpeercert()) if tls is not None else None)
        await super().run()


class NamedClients:
    """Wraps an ASGI app and tells it, by the `tls` extension of ASGI, whom the client's certificate names."""

    def __init__(self, app: AsgiApp) -> None:
        """Take the app."""
        hypercorn_run.TCPServer = _Connection  # type: ignore[attr-defined] # no other way
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


def _config(site: Site) -> Config:
    config = Config()
    # Hypercorn closes the descriptor that it is given.
    config.bind = [f"fd://{site.listener.dup().detach()}"]
    config.certfile, config.keyfile = str(site.certificate.chain), str(site.certificate.key)
    config.alpn_protocols = ["http/1.1"]
    config.backlog = BACKLOG
    config.keep_alive_timeout = KEEP_ALIVE_SECONDS
    config.keep_alive_max_requests = CONNECTION_REQUESTS_MAXIMUM
    config.ssl_handshake_timeout = HANDSHAKE_SECONDS
    config.graceful_timeout = site.settings.drain_seconds
    config.include_server_header = False
    config.loglevel = "WARNING"
    if site.asks_names:
        config.ca_certs = str(site.settings.client_ca)
        is_required = site.settings.client_certificates == "required"
        config.verify_mode = ssl.CERT_REQUIRED if is_required else ssl.CERT_OPTIONAL
    return config
