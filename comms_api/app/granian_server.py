"""Serve a site with granian, an extra. Everything of granian that this project relies on is in this module.

Its embedded server runs an app in our event loop and its connections in threads of its own. It cannot tell an app whom
a client's certificate names.
"""

import asyncio
import logging
from typing import Any

from granian.constants import HTTPModes, Interfaces, SSLProtocols
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.net import SocketHolder
from granian.server.embed import Server

from comms_api.app.listeners import BACKLOG
from comms_api.app.sites import KEEP_ALIVE_SECONDS, Site

CONNECTIONS_MAXIMUM = 1_000_000
"""It accepts no more than that at once; what bounds them here is the number of open files."""

HEAD_BYTES_MAXIMUM = 16 * 1024

LOG_LEVELS = {"incremental": True, "handlers": {}, "loggers": {"_granian": {"propagate": True}}}
"""What it logs goes where our log goes, and leaves the handlers there alone."""


async def serve(site: Site, ended: asyncio.Event) -> None:
    """Serve a site until the event is set."""
    server = _server(site)
    serving = asyncio.create_task(server.serve())
    await asyncio.wait([asyncio.create_task(ended.wait()), serving], return_when=asyncio.FIRST_COMPLETED)
    server.stop()
    try:
        await asyncio.shield(serving)
    except asyncio.CancelledError:
        logging.getLogger("_granian").setLevel(logging.CRITICAL)  # it takes the requests cut off now for faults
        raise


def _server(site: Site) -> Any:
    server = Server(
        site.app,
        interface=Interfaces.ASGINL,
        http=HTTPModes.http1,
        websockets=False,
        backlog=BACKLOG,
        backpressure=CONNECTIONS_MAXIMUM,
        http1_settings=HTTP1Settings(
            header_read_timeout=int(KEEP_ALIVE_SECONDS * 1000), max_buffer_size=HEAD_BYTES_MAXIMUM
        ),
        log_level=LogLevels.error,
        log_dictconfig=LOG_LEVELS,
        ssl_cert=site.certificate.chain,
        ssl_key=site.certificate.key,
        ssl_protocol_min=SSLProtocols.tls12,
    )
    # It would open a socket of its own, and closes the descriptor that it is given.
    holder = SocketHolder(site.listener.dup().detach(), uds=False, backlog=BACKLOG)
    server._shd, server._init_shared_socket = holder, lambda: None  # noqa: SLF001 - no other way
    return server
