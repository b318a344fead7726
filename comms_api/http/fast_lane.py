"""Call the routes that are called all day without Litestar's machinery, which costs more than they do.

A request takes the fast lane when its method and path are one of theirs, letter by letter, and it has no query. The
very functions that Litestar serves are called, behind the same guard and with the same answers to errors; every other
request, and the description of the API, is Litestar's.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from inspect import signature

import msgspec
from litestar import Request, Response
from litestar.enums import ScopeType
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp, Receive, Scope, Send

from comms_api.http.authentication import Guard
from comms_api.http.problems import answer_problem
from comms_api.http.request import AnyRequest

_JSON = (b"content-type", b"application/json")


class _Route(msgspec.Struct, frozen=True):
    handler: HTTPRouteHandler
    call: Callable[..., Awaitable[object]]
    services: Mapping[str, object]


class FastLane:
    """Wraps a Litestar app."""

    def __init__(
        self,
        app: ASGIApp,
        guard: Guard,
        handlers: Sequence[HTTPRouteHandler],
        services: Mapping[str, object],
    ) -> None:
        """Take the handlers of the fast lane: what they ask for is the request, services, and what has a default."""
        self._app = app
        self._guard = guard
        self._routes = {
            (method, path): _Route(handler, handler.fn, _wanted(handler, services))
            for handler in handlers
            for method in handler.http_methods
            for path in handler.paths
        }

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one request; no coroutine, of which each held poll would keep one."""
        route = None
        if scope["type"] == ScopeType.HTTP and not scope["query_string"]:
            route = self._routes.get((scope["method"], scope["path"]))
        if route is None:
            return self._app(scope, receive, send)
        scope.setdefault("state", {})  # of ASGI's optional members the one that the guard writes to
        return self._serve(route, Request(scope, receive, send))

    async def _serve(self, route: _Route, request: AnyRequest) -> None:
        try:
            await self._guard(request, route.handler)
            content = await route.call(request, **route.services)
        except Exception as error:  # noqa: BLE001 - every error has its answer
            problem = answer_problem(request, error).to_asgi_response(None, request)
            await problem(request.scope, request.receive, request.send)
            return
        status = route.handler.status_code
        if isinstance(content, Response):
            content, status = content.content, content.status_code
        body = b"" if content is None else msgspec.json.encode(content)
        length = (b"content-length", b"%d" % len(body))
        headers = [] if content is None else [_JSON, length]
        await request.send({"type": "http.response.start", "status": status, "headers": headers})
        await request.send({"type": "http.response.body", "body": body, "more_body": False})


def _wanted(handler: HTTPRouteHandler, services: Mapping[str, object]) -> Mapping[str, object]:
    return {name: services[name] for name in signature(handler.fn).parameters if name in services}
