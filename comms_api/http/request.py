"""The request as our routes see it."""

from typing import Any, TypeAlias

from litestar import Request

AnyRequest: TypeAlias = Request[Any, Any, Any]


def client_name(scope: Any) -> str | None:
    """Return whom the client's certificate names; None without one, or where none is asked for."""
    name: str | None = ((scope.get("extensions") or {}).get("tls") or {}).get("client_cert_name")
    return name


def remote_address(request: AnyRequest) -> str | None:
    """Return the address that asks; behind a proxy only if that is trusted (see `http/addresses`)."""
    return request.client.host if request.client else None
