"""Guards: identify the caller by its token, before a byte of the body is read."""

import base64
import binascii
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

from asyncpg.pgproto.pgproto import UUID
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from comms_api.addresses import is_within, network_of
from comms_api.database.actor import Actor, act_as
from comms_api.errors import Forbidden, Malformed, TooManyRequests, Unauthenticated
from comms_api.fairness.concurrency import Concurrency
from comms_api.http.request import (
    CHALLENGE,
    AnyRequest,
    at_answer,
    client_address,
    client_name,
    find_header,
    remote_address,
)
from comms_api.http.roles import ROLES
from comms_api.http1.endpoint import AUTHENTICATED
from comms_api.tokens.issuer import MANAGEMENT, Audience, Claims, Tokens

AnyConnection: TypeAlias = ASGIConnection[Any, Any, Any, Any]
Guard: TypeAlias = Callable[[AnyConnection, BaseRouteHandler], Awaitable[None]]
LogIn: TypeAlias = Callable[[AnyConnection], Awaitable[str]]
"""Returns a token for the user name and the password of a request."""

FindToken: TypeAlias = Callable[[AnyConnection, BaseRouteHandler], Awaitable[str]]
"""Returns the token of a request to a route; raises `Unauthenticated` without one."""

_CLAIMS = "claims"
PUBLIC = {"public": True}
"""The `opt` of a route that needs no token."""

PUBLIC_OR_TOKEN = {"public": True, "accepts_token": True}
"""The `opt` of a route that needs no token but shows more to its holder; it also declares the roles of tokens."""

SCRAPED = {"scraped": True}
"""The `opt` of a route that `metrics_networks` may read without a token; it also declares its roles."""

BASIC = {"basic": True}
"""The `opt` of a route that accepts a user name and a password instead of a token; it also declares its roles."""

SESSION = {"session": True}
"""The `opt` of a route that also accepts a session of the console.

It must not change anything: nothing proves that a page of the console has sent the request.
"""

IS_HELD = "is_held"
HELD = {IS_HELD: True}
"""The `opt` of a route that waits for something to happen; its requests do not count as in progress."""


def admit_networks(networks: Sequence[str], guard: Guard) -> Guard:
    """Return a guard that lets addresses in these networks read the routes with `SCRAPED`, and else asks `guard`."""

    async def check(connection: AnyConnection, handler: BaseRouteHandler) -> None:
        if not (handler.opt.get("scraped") and is_within(remote_address(connection), networks)):
            await guard(connection, handler)

    return check


def require_token(
    tokens: Tokens,
    audience: Audience,
    on_request: Callable[[AnyConnection, Claims], None],
    requests: Concurrency,
    find_token: FindToken | None = None,
) -> Guard:
    """Return a guard that requires a valid token for `audience`, and reports its holder to `on_request`.

    On the management API, the route must declare the token's role. OPTIONS needs no token: its answer is public.
    `requests` limits the simultaneous requests of each client. Without `find_token`, the token is a Bearer token.
    """

    async def guard(connection: AnyConnection, handler: BaseRouteHandler) -> None:
        if _needs_no_token(connection, handler):
            return
        token = bearer_token(connection) if find_token is None else await find_token(connection, handler)
        claims = tokens.verify(token, audience)
        if (name := client_name(connection.scope)) is not None and name.lower() != claims.subject:
            raise Forbidden("The certificate and the token name different agents.")
        if claims.networks and not is_within(remote_address(connection), claims.networks):
            raise Forbidden("The token is not valid from this address.")
        _check_path(connection)
        connection.scope["state"].update({_CLAIMS: claims, AUTHENTICATED: True})
        if audience == MANAGEMENT:
            _check_role(claims, handler)
            if connection.scope.get("method") != "GET":
                act_as(Actor(claims.subject, remote_address(connection)))
        await _begin(requests, connection, handler)
        on_request(connection, claims)

    return guard


def _needs_no_token(connection: AnyConnection, handler: BaseRouteHandler) -> bool:
    if handler.opt.get("public"):
        return not handler.opt.get("accepts_token") or find_header(connection.scope, b"authorization") is None
    return connection.scope.get("method") == "OPTIONS"


async def _begin(requests: Concurrency, connection: AnyConnection, handler: BaseRouteHandler) -> None:
    """Wait until the client may have one more request in progress, and count this request until its answer begins."""
    if handler.opt.get(IS_HELD):
        return
    client = client_of(connection.scope)
    try:
        await requests.begin(client)
    except TimeoutError:
        raise TooManyRequests("Your other requests are still in progress; send fewer at once.") from None
    at_answer(connection.scope, partial(requests.end, client))


def _check_path(connection: AnyConnection) -> None:
    if "\0" in connection.scope["path"]:
        raise Malformed("The path must not contain NUL.")


def _check_role(claims: Claims, handler: BaseRouteHandler) -> None:
    """Refuse every role that the route does not declare; a route without roles refuses everyone."""
    if claims.role not in handler.opt.get(ROLES, ()):
        raise Forbidden(f"The role {claims.role!r} may not do this.")


def bearer_token(connection: AnyConnection) -> str:
    """Return the token of the Authorization header (RFC 6750); raises `Unauthenticated` without one."""
    scheme, _, token = (find_header(connection.scope, b"authorization") or "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Unauthenticated("Send a token: Authorization: Bearer …")
    return token.strip()


def token_or_login(log_in: LogIn) -> FindToken:
    """Return a function that returns the Bearer token, or on a route with `BASIC` logs in with a password."""

    async def find_token(connection: AnyConnection, handler: BaseRouteHandler) -> str:
        if not handler.opt.get("basic"):
            return bearer_token(connection)
        connection.scope["state"][CHALLENGE] = 'Bearer, Basic realm="comms-api", charset="UTF-8"'
        scheme, _, _ = (find_header(connection.scope, b"authorization") or "").partition(" ")
        return await log_in(connection) if scheme.lower() == "basic" else bearer_token(connection)

    return find_token


def basic_credentials(connection: AnyConnection) -> tuple[str, str]:
    """Return the user name and the password of HTTP Basic (RFC 7617); raises `Unauthenticated` without them."""
    scheme, _, encoded = (find_header(connection.scope, b"authorization") or "").partition(" ")
    try:
        name, colon, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        raise Unauthenticated("The Basic credentials are not valid base64.") from None
    if scheme.lower() != "basic" or not colon or "\0" in name:
        raise Unauthenticated("Send a user name and password: Authorization: Basic …")
    return name, password


def claims_of(request: AnyRequest) -> Claims:
    """Return the claims that the guard has verified."""
    claims: Claims = request.scope["state"][_CLAIMS]
    return claims


def find_claims(request: AnyRequest) -> Claims | None:
    """Return the claims that the guard has verified; None before it has run, and on public routes."""
    claims: Claims | None = request.scope["state"].get(_CLAIMS)
    return claims


def service_of(request: AnyRequest) -> str | None:
    """Return the service that asks, which may read only what it has submitted; None for any other user."""
    claims = claims_of(request)
    return claims.subject if claims.role == "service" else None


def subject_of(scope: Any) -> str | None:
    """Return the agent or user that the guard has admitted; None before the guard has run, and on public routes."""
    claims: Claims | None = scope["state"].get(_CLAIMS)
    return claims.subject if claims is not None else None


def client_of(scope: Any) -> str:
    """Return the client to charge: the token's agent or user, or without a token the address (for IPv6, its /64)."""
    return subject_of(scope) or network_of(client_address(scope) or "")


def agent_of(request: AnyRequest) -> UUID:
    """Return the agent whose token the guard has verified."""
    return agent_id(claims_of(request))


def agent_id(claims: Claims) -> UUID:
    """Return the agent of a token as asyncpg's UUID, because its hash, which is needed often, is computed in C."""
    return UUID(claims.subject)
