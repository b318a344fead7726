"""What an ASGI server is given to serve, and which server does it.

Each server has a module of its own, and nothing of it is known elsewhere. A module has one function, `serve`.
"""

import asyncio
import socket
from collections.abc import Callable, Coroutine
from importlib import import_module
from importlib.util import find_spec
from typing import Any, TypeAlias

import msgspec

from comms_api.app.apis import AsgiApp
from comms_api.app.certificates import Certificate
from comms_api.errors import ConfigurationError
from comms_api.settings import Settings

KEEP_ALIVE_SECONDS = 30.0


class Site(msgspec.Struct, frozen=True):
    """One ASGI app on one socket that listens already; `asks_names` has clients asked for their certificates."""

    app: AsgiApp
    listener: socket.socket
    certificate: Certificate
    settings: Settings
    asks_names: bool = False
    renewals: list[Callable[[], None]] = []
    """Where a server that can take a new certificate while it serves puts the way to have it read again."""


Serve: TypeAlias = Callable[[Site, asyncio.Event], Coroutine[Any, Any, None]]
"""Serves until the event is set; then takes no connection, ends the idle ones, and returns when none is left."""


def find_server(settings: Settings) -> Serve:
    """Return the server that the settings name; raises `ConfigurationError` when it is not installed."""
    if find_spec(settings.server) is None:
        raise ConfigurationError(f"server: {settings.server} is not installed: pip install {settings.server}")
    serve: Serve = import_module(f"comms_api.app.{settings.server}_server").serve
    return serve
