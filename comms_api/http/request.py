"""The request as our routes see it."""

from typing import Any, TypeAlias

from litestar import Request

AnyRequest: TypeAlias = Request[Any, Any, Any]


def remote_address(request: AnyRequest) -> str | None:
    """Return the address that asks; behind a proxy only if that is trusted (see `http/addresses`)."""
    return request.client.host if request.client else None
