"""The request as our routes see it."""

from collections.abc import Callable
from typing import Any, TypeAlias

from litestar import Request

from comms_api.fairness.metering import Metered
from comms_api.http1.endpoint import AT_ANSWER, AT_END, CLOSES, HAS_LEFT, IS_HEAD, METER

AnyRequest: TypeAlias = Request[Any, Any, Any]

CHALLENGE = "challenge"
"""The key in a request's state of the schemes that a 401 names (RFC 9110), if these are not Bearer alone."""


def close_afterwards(scope: Any) -> None:
    """Have the client's next request come by another connection, so that a load balancer may choose anew."""
    scope["state"][CLOSES] = True


def at_end(scope: Any, call: Callable[[], None]) -> None:
    """Call a function once the answer has been sent or its client has disconnected."""
    scope["state"].setdefault(AT_END, []).append(call)


def at_answer(scope: Any, call: Callable[[], None]) -> None:
    """Call a function once the route has returned or failed: before its answer is sent."""
    scope["state"].setdefault(AT_ANSWER, []).append(call)


def is_head(scope: Any) -> bool:
    """Return whether the client asked only for the head of the answer."""
    asked: bool = scope[IS_HEAD]
    return asked


def departure_of(scope: Any) -> Callable[[], bool]:
    """Return a function that returns whether the request's client has disconnected."""
    has_left: Callable[[], bool] = scope[HAS_LEFT]
    return has_left


def meter_of(scope: Any) -> Metered[None]:
    """Return the meter of the request's CPU time."""
    meter: Metered[None] = scope["state"][METER]
    return meter


def find_header(scope: Any, name: bytes) -> str | None:
    """Return the first header of a name in lower case; Litestar would make a dictionary of all of them first."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value, "latin-1")
    return None


def client_name(scope: Any) -> str | None:
    """Return whom the client's certificate names; None without one, or where none is asked for."""
    name: str | None = ((scope.get("extensions") or {}).get("tls") or {}).get("client_cert_name")
    return name


def remote_address(connection: Any) -> str | None:
    """Return the address that asks; behind a proxy only if that is trusted (see `http1/forwarded`)."""
    client = connection.scope.get("client")
    return client[0] if client else None


async def until_disconnect(request: AnyRequest) -> None:
    """Return when the client is gone."""
    # A server frees a vanished client's request only if somebody awaits its next message.
    while (await request.receive())["type"] != "http.disconnect":
        pass
