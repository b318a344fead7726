"""Serve an app bare and under a prefix: routes that were there twice would be in memory twice."""

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send


class AlsoUnder:
    """Wraps an ASGI app: a path under the prefix is what follows the prefix."""

    def __init__(self, prefix: str, app: ASGIApp) -> None:
        """Take a prefix that begins with a slash and does not end with one."""
        self._prefix = prefix
        self._inside = prefix + "/"
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == ScopeType.HTTP and f"{scope['path']}/".startswith(self._inside):
            scope["path"] = scope["path"].removeprefix(self._prefix) or "/"
        await self._app(scope, receive, send)
