"""Access to what `http1` and the guards know about a request."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias, TypeVar
from uuid import UUID

from litestar import Request

from comms_api.database.uuid7 import uuid7_at
from comms_api.fairness.metering import Metered
from comms_api.http1.endpoint import AT_ANSWER, AT_END, CLOSES, HAS_LEFT, IS_HEAD, METER

T = TypeVar("T")
AnyRequest: TypeAlias = Request[Any, Any, Any]

CHALLENGE = "challenge"
"""The key in a request's state for the WWW-Authenticate value of a 401 (RFC 9110), if it is not Bearer alone."""


_REQUEST_ID = "request_id"


def request_id(scope: Any) -> UUID:
    """Return the id under which the log and the answer name a request; it is made at its first use."""
    state = scope["state"]
    if _REQUEST_ID not in state:
        state[_REQUEST_ID] = uuid7_at(time.time())
    made: UUID = state[_REQUEST_ID]
    return made


def close_afterwards(scope: Any) -> None:
    """Close the connection after the answer, so that a load balancer can choose another node for the next request."""
    scope["state"][CLOSES] = True


def at_end(scope: Any, call: Callable[[], None]) -> None:
    """Call a function once the answer has been sent or its client has disconnected."""
    scope["state"].setdefault(AT_END, []).append(call)


def at_answer(scope: Any, call: Callable[[], None]) -> None:
    """Call a function once the route has returned or failed, before its answer is sent."""
    scope["state"].setdefault(AT_ANSWER, []).append(call)


def is_head(scope: Any) -> bool:
    """Return whether the client asked only for the head of the answer."""
    is_head_only: bool = scope[IS_HEAD]
    return is_head_only


def departure_of(scope: Any) -> Callable[[], bool]:
    """Return a function that returns whether the request's client has disconnected."""
    has_left: Callable[[], bool] = scope[HAS_LEFT]
    return has_left


def meter_of(scope: Any) -> Metered[None]:
    """Return the meter of the request's CPU time."""
    meter: Metered[None] = scope["state"][METER]
    return meter


def find_header(scope: Any, name: bytes) -> str | None:
    """Return the first header with a lower-case name; Litestar would first build a dictionary of all headers."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value, "latin-1")
    return None


def client_name(scope: Any) -> str | None:
    """Return the common name of the client's certificate; None without a certificate."""
    name: str | None = ((scope.get("extensions") or {}).get("tls") or {}).get("client_cert_name")
    return name


def client_address(scope: Any) -> str | None:
    """Return the client's address; behind a trusted proxy, the address that it reports (see `http1/forwarded`)."""
    client = scope.get("client")
    return client[0] if client else None


def remote_address(connection: Any) -> str | None:
    """Return the address of a connection's client."""
    return client_address(connection.scope)


async def until_disconnect(request: AnyRequest) -> None:
    """Return when the client has disconnected."""
    # `http1` frees the request of a disconnected client only if the app awaits its next message.
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def while_connected(request: AnyRequest, work: Coroutine[None, None, T]) -> T | None:
    """Return the result of work, or None if the client disconnects before; the work is cancelled then."""
    working, watch = asyncio.ensure_future(work), asyncio.ensure_future(until_disconnect(request))
    try:
        await asyncio.wait([working, watch], return_when=asyncio.FIRST_COMPLETED)
    finally:
        working.cancel()
        watch.cancel()
        await asyncio.gather(working, watch, return_exceptions=True)
    return None if working.cancelled() else working.result()
