"""Complete the OpenAPI description of each route: its name, group, body, refusals and security."""

import sys
from collections.abc import Iterator
from typing import Any

import msgspec
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import ResponseSpec
from litestar.openapi.spec import Components, SecurityScheme
from litestar.plugins import ReceiveRoutePlugin
from litestar.routes import BaseRoute, HTTPRoute

from comms_api.http.problems import MEDIA_TYPE, Problem

TOKEN, PASSWORD, ENROLLMENT = "token", "password", "enrollment"
SECURITY_SCHEMES = Components(
    security_schemes={
        TOKEN: SecurityScheme(type="http", scheme="bearer", bearer_format="JWT", description="an access token"),
        PASSWORD: SecurityScheme(type="http", scheme="basic", description="a user's name and password"),
        ENROLLMENT: SecurityScheme(type="http", scheme="bearer", description="an enrollment token"),
    }
)

ALWAYS = {
    400: "the request is malformed; `detail` names the field",
    401: "the token or the password is missing or invalid, or the token has expired or has been revoked",
    404: "an object that the request names does not exist",
    422: "the request is well-formed, but a value is invalid; `detail` names the field",
    429: "this client has exceeded its share or a rate limit; retry after Retry-After seconds",
    503: "the node has no room, or the database cannot be reached; retry after Retry-After seconds",
}
WITH_CALLER = {403: "the caller may not do this"}
WITH_BODY = {
    408: "the body did not arrive in time",
    409: "the state of an object does not allow this",
    413: "the body is too large, or has too many items",
    415: "the content type or content encoding is not supported",
}
REFUSALS = ALWAYS | WITH_CALLER | WITH_BODY

BODY = "described_body"
_SCHEMES = "described_schemes"


class Body(msgspec.Struct, frozen=True):
    """The body of a route: JSON of one of these types, or a text if there are none."""

    types: tuple[Any, ...]
    media_type: str
    is_required: bool


def reads(*types: Any, is_required: bool = True) -> dict[str, Any]:
    """Return the `opt` that describes the JSON body of a route that decodes it itself."""
    return {BODY: Body(types, "application/json", is_required)}


def reads_text(media_type: str) -> dict[str, Any]:
    """Return the `opt` that describes a body that is not JSON."""
    return {BODY: Body((), media_type, is_required=True)}


def authenticates(scheme: str) -> dict[str, Any]:
    """Return the `opt` that describes the credentials of a public route."""
    return {_SCHEMES: scheme}


class DescribedOperations(ReceiveRoutePlugin):
    """Completes the description of each route; routes say only what is particular to them."""

    def receive_route(self, route: BaseRoute) -> None:
        """Add to the handlers of a new route."""
        if not isinstance(route, HTTPRoute):
            return
        for handler in route.route_handlers:
            if handler.resolve_include_in_schema():
                handler.summary = handler.handler_name.replace("_", " ").capitalize()
                handler.tags = [package_of(handler)]
            refusals = {status: _problem(text) for status, text in _refusals(handler)}
            handler.responses = {**refusals, **(handler.responses or {})}
            handler.security = _security(handler)


def package_of(handler: HTTPRouteHandler) -> str:
    """Return the package of the server that a route belongs to; a check of `app` is one of health."""
    package = handler.fn.__module__.split(".")[1]
    return "health" if package == "app" else package


def describe_package(name: str) -> str:
    """Return the first sentence of a package."""
    return (sys.modules[f"comms_api.{name}"].__doc__ or "").partition("\n")[0]


def _refusals(handler: HTTPRouteHandler) -> Iterator[tuple[int, str]]:
    yield from ALWAYS.items()
    is_reading = handler.http_methods <= {"GET", "HEAD"}
    if not is_reading or not handler.opt.get("public"):
        yield from WITH_CALLER.items()
    if not is_reading:
        yield from WITH_BODY.items()


def _problem(text: str) -> ResponseSpec:
    return ResponseSpec(Problem, description=text, media_type=MEDIA_TYPE, generate_examples=False)


def _security(handler: HTTPRouteHandler) -> list[dict[str, list[str]]]:
    if handler.opt.get("public"):
        if _SCHEMES in handler.opt:
            return [{handler.opt[_SCHEMES]: []}]
        return [{}, {TOKEN: []}] if handler.opt.get("accepts_token") else []
    return [{TOKEN: []}, {PASSWORD: []}] if handler.opt.get("basic") else [{TOKEN: []}]
