"""Call the hot routes without Litestar's machinery, which costs more than the routes themselves.

A request takes the fast lane when its method and path match a hot route exactly and it has no query. The fast lane
calls the same functions as Litestar, behind the same guard and with the same answers to errors. Litestar serves every
other request and describes the API.

Every path also works under a prefix. The prefix is stripped here: routes registered twice would take twice the memory.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from inspect import signature
from typing import Any

import msgspec
from litestar import Request, Response
from litestar.enums import ScopeType
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp, Receive, Scope, Send

from comms_api.http.access_log import describe_request
from comms_api.http.authentication import Guard
from comms_api.http.problems import answer_problem
from comms_api.http.request import AnyRequest
from comms_api.text.json_log import DESCRIBE_REQUEST

_JSON = (b"content-type", b"application/json")
_NOT_APPLIED = (
    "response_headers",
    "response_cookies",
    "cache_control",
    "etag",
    "before_request",
    "after_request",
    "after_response",
    "background",
)


class _Route(msgspec.Struct, frozen=True):
    handler: HTTPRouteHandler
    call: Callable[..., Awaitable[object]]
    services: Mapping[str, object]


class FastLane:
    """Wraps a Litestar app and serves its hot routes.

    The parameters of a hot handler are `request`, the names of services, and parameters with defaults. `prefix` begins
    with a slash and does not end with one.

    Raises `ValueError` for a handler with a hook, or an option that adds headers to its answer: Litestar's machinery
    applies them, and the fast lane would drop them silently.
    """

    def __init__(
        self,
        app: ASGIApp,
        guard: Guard,
        handlers: Sequence[HTTPRouteHandler],
        services: Mapping[str, object],
        prefix: str,
    ) -> None:
        for handler in handlers:
            if options := [option for option in _NOT_APPLIED if getattr(handler, option)]:
                raise ValueError(f"{handler.handler_name}: the fast lane does not apply {', '.join(options)}")
        self._app = app
        self._prefix = prefix
        self._inside_prefix = prefix + "/"
        self._guard = guard
        self._routes = {
            (method, path): _Route(handler, handler.fn, _services_of(handler, services))
            for handler in handlers
            for method in handler.http_methods
            for path in handler.paths
        }

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one request. This is not a coroutine, since every held poll would keep one in memory."""
        if scope["type"] != ScopeType.HTTP:
            return self._app(scope, receive, send)
        scope.setdefault("state", {})  # optional in ASGI, but the guard writes to it
        DESCRIBE_REQUEST.set(partial(describe_request, scope))
        if scope["path"] == "*":
            scope["path"] = "/"  # OPTIONS * asks about the server as a whole (RFC 9110, 9.3.7)
        if f"{scope['path']}/".startswith(self._inside_prefix):
            scope["path"] = scope["path"].removeprefix(self._prefix) or "/"
        route = None if scope["query_string"] else self._routes.get((scope["method"], scope["path"]))
        if route is None:
            return self._app(scope, receive, send)
        scope["path_template"] = scope["path"]
        return self._serve(route, Request(scope, receive, send))

    async def _serve(self, route: _Route, request: AnyRequest) -> None:
        try:
            await self._guard(request, route.handler)
            content = await route.call(request, **route.services)
        except Exception as error:  # noqa: BLE001 - every error gets an answer
            content = answer_problem(request, error)
        if isinstance(content, Response):
            answer = content.to_asgi_response(None, request)
            await answer(request.scope, request.receive, request.send)
            return
        body: Any = b""
        if isinstance(content, msgspec.Raw):
            body = memoryview(content)  # encoding it would copy it
        elif content is not None:
            body = msgspec.json.encode(content)
        headers = [] if content is None else [_JSON, (b"content-length", b"%d" % len(body))]
        await request.send({"type": "http.response.start", "status": route.handler.status_code, "headers": headers})
        await request.send({"type": "http.response.body", "body": body, "more_body": False})


def _services_of(handler: HTTPRouteHandler, services: Mapping[str, object]) -> Mapping[str, object]:
    return {name: services[name] for name in signature(handler.fn).parameters if name in services}
