"""Serve an app bare and under a prefix: routes that were there twice would be in memory twice."""

from collections.abc import Awaitable

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send


class AlsoUnder:
    """Wraps an ASGI app: a path under the prefix is what follows the prefix."""

    def __init__(self, prefix: str, app: ASGIApp) -> None:
        """Take a prefix that begins with a slash and does not end with one."""
        self._prefix = prefix
        self._inside = prefix + "/"
        self._app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one request; no coroutine, of which each held poll would keep one."""
        if scope["type"] == ScopeType.HTTP and f"{scope['path']}/".startswith(self._inside):
            scope["path"] = scope["path"].removeprefix(self._prefix) or "/"
        return self._app(scope, receive, send)
