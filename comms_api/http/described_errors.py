"""Add to the OpenAPI description what each route has in common with others: its refusals and its security."""

from collections.abc import Iterator

from litestar.handlers import HTTPRouteHandler
from litestar.openapi import ResponseSpec
from litestar.openapi.spec import Components, SecurityScheme
from litestar.plugins import ReceiveRoutePlugin
from litestar.routes import BaseRoute, HTTPRoute

from comms_api.http.problems import MEDIA_TYPE, Problem

TOKEN, PASSWORD = "token", "password"
SECURITY_SCHEMES = Components(
    security_schemes={
        TOKEN: SecurityScheme(type="http", scheme="bearer", bearer_format="JWT", description="an access token"),
        PASSWORD: SecurityScheme(type="http", scheme="basic", description="a user's name and password"),
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
WITH_TOKEN = {403: "the token's owner may not do this"}
WITH_BODY = {
    408: "the body did not arrive in time",
    409: "the state of an object does not allow this",
    413: "the body is too large, or has too many items",
    415: "the content type or content encoding is not supported",
}


class DescribedErrors(ReceiveRoutePlugin):
    """Completes the description of each route; routes say only what is particular to them."""

    def receive_route(self, route: BaseRoute) -> None:
        """Add to the handlers of a new route."""
        if not isinstance(route, HTTPRoute):
            return
        for handler in route.route_handlers:
            refusals = {status: _problem(text) for status, text in _refusals(handler)}
            handler.responses = {**refusals, **(handler.responses or {})}
            handler.security = _security(handler)


def _refusals(handler: HTTPRouteHandler) -> Iterator[tuple[int, str]]:
    yield from ALWAYS.items()
    if not handler.opt.get("public"):
        yield from WITH_TOKEN.items()
    if not handler.http_methods <= {"GET", "HEAD"}:
        yield from WITH_BODY.items()


def _problem(text: str) -> ResponseSpec:
    return ResponseSpec(Problem, description=text, media_type=MEDIA_TYPE, generate_examples=False)


def _security(handler: HTTPRouteHandler) -> list[dict[str, list[str]]]:
    if handler.opt.get("public"):
        return [{}, {TOKEN: []}] if handler.opt.get("accepts_token") else []
    return [{TOKEN: []}, {PASSWORD: []}] if handler.opt.get("basic") else [{TOKEN: []}]
