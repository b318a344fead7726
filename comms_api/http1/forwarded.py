"""Find the client of a request in the header that a trusted proxy sets."""

import ipaddress
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Literal, TypeAlias

from comms_api.addresses import is_within

App: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]
ForwardedHeader = Literal["X-Forwarded-For", "Forwarded"]


class ForwardedClients:
    """Wraps an ASGI app: replaces the address of a trusted proxy by the client's address in one header.

    Only the header that the proxies set is read, since they forward a client's own other header. From the right, the
    first address that is not a trusted proxy's is the client's; anybody may have written what stands left of it. A
    header from anyone else is ignored.
    """

    def __init__(self, app: App, proxies: Sequence[str], header: ForwardedHeader) -> None:
        self._app = app
        self._proxies = proxies
        self._header = header.lower().encode()
        self._hops = _hops_of_forwarded if header == "Forwarded" else _hops_of_x_forwarded_for

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request under its client's address."""
        if scope["type"] == "http" and scope.get("client") and is_within(scope["client"][0], self._proxies):
            scope = scope | {"client": (self._client(scope), 0)}
        await self._app(scope, receive, send)

    def _client(self, scope: Any) -> str:
        value = b",".join(value for name, value in scope["headers"] if name == self._header).decode("latin-1")
        peer: str = scope["client"][0]
        for hop in self._hops(value):
            address = find_address(hop)
            if address is None:
                return peer
            peer = address
            if not is_within(address, self._proxies):
                return address
        return peer


def _hops_of_x_forwarded_for(value: str) -> Iterator[str]:
    return reversed(value.split(","))


def _hops_of_forwarded(value: str) -> Iterator[str]:
    """Yield the `for` of each element (RFC 7239), last first, so that a client's unclosed quote spoils no other."""
    for element in _elements_from_the_right(value):
        pairs = (pair.partition("=") for pair in element.split(";"))
        yield next((node.strip().strip('"') for name, _, node in pairs if name.strip().lower() == "for"), "")


def _elements_from_the_right(value: str) -> Iterator[str]:
    end, is_quoted = len(value), False
    for place in range(len(value) - 1, -1, -1):
        if value[place] == '"':
            is_quoted = not is_quoted
        elif value[place] == "," and not is_quoted:
            yield value[place + 1 : end]
            end = place
    yield value[:end]


def find_address(hop: str) -> str | None:
    """Return the address of a hop, which may have a port and, for IPv6, brackets; None if it has no address."""
    text = hop.strip()
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]")
        is_whole = bool(bracket) and (not port or port[0] == ":")
    else:
        host, _, port = text.partition(":") if text.count(":") == 1 else (text, "", "")
        is_whole = True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return str(getattr(address, "ipv4_mapped", None) or address) if is_whole else None
