"""Serve one node's two apps over TLS with hypercorn, and drain on SIGTERM.

Everything of hypercorn that this project relies on is in this module.
"""

import asyncio
import ctypes
import gc
import logging
import signal
import socket
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

import msgspec
import uvloop
from hypercorn.asyncio import run as hypercorn_run
from hypercorn.asyncio import serve as serve_asgi
from hypercorn.asyncio import tcp_server
from hypercorn.config import Config

from comms_api.app.apis import AsgiApp, agent_api, management_api
from comms_api.app.certificates import Certificate
from comms_api.app.listeners import BACKLOG, Listeners
from comms_api.app.node import Node, open_node
from comms_api.database.connect import open_engine
from comms_api.settings import Settings
from comms_api.tokens.keyring import Keyring
from comms_api.tokens.secret import Secret

logger = logging.getLogger(__name__)

CONNECTION_REQUESTS_MAXIMUM = 10_000_000
"""Hypercorn closes a connection after 1,000 requests unless told otherwise."""

KEEP_ALIVE_SECONDS = 30.0
HANDSHAKE_SECONDS = 20.0
ORPHAN_CHECK_SECONDS = 1.0
M_MMAP_THRESHOLD = -3  # malloc.h
MAPPED_BLOCK_BYTES = 64 * 1024
COLLECTION_THRESHOLD = 50_000
"""How many more objects than before are worth a collection; Python's own is 700."""

SHUTDOWN_SECONDS = 1.0
FLUSH_SECONDS = 0.3
"""How long the last answers may take from here to the network."""


class Loop(uvloop.Loop):
    """An event loop that does not wait half a minute for a client that closes without saying so (TLS close_notify)."""

    def __init__(self) -> None:
        """Keep the faults of clients out of the log."""
        super().__init__()
        self.set_exception_handler(_log_unless_of_a_client)

    async def create_server(self, *arguments: Any, **options: Any) -> Any:
        """Listen; hypercorn has no setting of its own for this time."""
        if options.get("ssl") is not None:
            options["ssl_shutdown_timeout"] = SHUTDOWN_SECONDS
        return await super().create_server(*arguments, **options)


def _log_unless_of_a_client(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    if not isinstance(context.get("exception"), OSError):  # TLS errors and time-outs are ones, too
        loop.default_exception_handler(context)


_CLIENT_NAME: ContextVar[str | None] = ContextVar("client_name", default=None)


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


class Worker(msgspec.Struct, frozen=True):
    """What a process needs to be a worker, on a database that is prepared."""

    database_url: str
    secret: Secret
    keyring: Keyring
    certificate: Certificate
    settings: Settings


def run_worker(
    worker: Worker,
    listeners: Listeners,
    ready: Callable[[], None],
    has_parent: Callable[[], bool] = lambda: True,
) -> None:
    """Serve in this process until SIGTERM, SIGINT (or the death of the supervisor); calls `ready` when it serves."""
    _map_large_blocks()
    _collect_seldom()
    uvloop.run(_run(worker, listeners, ready, has_parent), loop_factory=Loop)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # we are leaving already


def _map_large_blocks() -> None:
    """Let glibc give the buffers of each TLS connection back to the system when it is done with them."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # only glibc has it
        mallopt(M_MMAP_THRESHOLD, MAPPED_BLOCK_BYTES)


def _collect_seldom() -> None:
    """Leave what was imported out of collections, and look for cycles seldom: requests leave few."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECTION_THRESHOLD)


async def _run(worker: Worker, listeners: Listeners, ready: Callable[[], None], has_parent: Callable[[], bool]) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    engine = open_engine(worker.database_url, worker.settings)
    try:
        async with open_node(engine, worker.secret, worker.keyring, worker.settings) as node:
            watch = asyncio.create_task(_watch_parent(has_parent, stopping))
            await _serve(node, listeners, worker.certificate, stopping, ready)
            watch.cancel()
    finally:
        await engine.dispose()


async def _watch_parent(has_parent: Callable[[], bool], stopping: asyncio.Event) -> None:
    while has_parent():  # noqa: ASYNC110 - the kernel has no event for it
        await asyncio.sleep(ORPHAN_CHECK_SECONDS)
    stopping.set()


async def _serve(
    node: Node,
    listeners: Listeners,
    certificate: Certificate,
    stopping: asyncio.Event,
    ready: Callable[[], None],
) -> None:
    """Serve until `stopping`; then answer the held polls, let what is in flight finish, and return."""
    drained = asyncio.Event()
    asks_names = node.settings.client_certificates != "off"
    agents = NamedClients(agent_api(node)) if asks_names else agent_api(node)
    apps = [InFlight(agents), InFlight(management_api(node))]
    configs = [
        _with_client_certificates(_config(listeners.agent, certificate, node.settings), node.settings),
        _config(listeners.management, certificate, node.settings),
    ]
    servers = [
        asyncio.create_task(serve_asgi(app, config, shutdown_trigger=drained.wait, mode="asgi"))
        for app, config in zip(apps, configs, strict=True)
    ]
    # The sockets listen already: a client that comes before the server does waits in their backlog.
    ready()
    await asyncio.wait([asyncio.create_task(stopping.wait()), *servers], return_when=asyncio.FIRST_COMPLETED)
    logger.info("draining, %d polls held", node.dispatcher.held_polls)
    listeners.close()  # a connection that nobody will accept should go to another node now
    node.dispatcher.drain()
    node.watch.drain()
    drained.set()
    with suppress(TimeoutError):
        async with asyncio.timeout(node.settings.drain_seconds):
            await asyncio.gather(*(app.wait_until_idle() for app in apps))
    # Hypercorn would wait on for idle connections whose clients are slow to close them.
    await asyncio.wait(servers, timeout=FLUSH_SECONDS)
    for server in servers:
        server.cancel()
    await asyncio.gather(*servers, return_exceptions=True)


class InFlight:
    """Wraps an ASGI app and knows when no request is under way."""

    def __init__(self, app: AsgiApp) -> None:
        """Take the app."""
        self._app = app
        self._requests = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request, or the lifespan, which is none."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        self._requests += 1
        self._idle.clear()
        try:
            await self._app(scope, receive, send)
        finally:
            self._requests -= 1
            if self._requests == 0:
                self._idle.set()

    async def wait_until_idle(self) -> None:
        """Return once no request is under way."""
        await self._idle.wait()


def _with_client_certificates(config: Config, settings: Settings) -> Config:
    """Have agents asked for certificates, if the settings say so."""
    if settings.client_certificates != "off":
        config.ca_certs = str(settings.client_ca)
        is_required = settings.client_certificates == "required"
        config.verify_mode = ssl.CERT_REQUIRED if is_required else ssl.CERT_OPTIONAL
    return config


def _config(listener: socket.socket, certificate: Certificate, settings: Settings) -> Config:
    config = Config()
    # Hypercorn closes the descriptor that it is given.
    config.bind = [f"fd://{listener.dup().detach()}"]
    config.certfile, config.keyfile = str(certificate.chain), str(certificate.key)
    config.alpn_protocols = ["http/1.1"]
    config.backlog = BACKLOG
    config.keep_alive_timeout = KEEP_ALIVE_SECONDS
    config.keep_alive_max_requests = CONNECTION_REQUESTS_MAXIMUM
    config.ssl_handshake_timeout = HANDSHAKE_SECONDS
    config.graceful_timeout = settings.drain_seconds
    config.include_server_header = False
    config.loglevel = "WARNING"
    return config
