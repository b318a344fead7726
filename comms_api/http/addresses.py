"""Where requests come from: source addresses, networks, and the proxies that are trusted to name their clients."""

import ipaddress
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

from comms_api.errors import ConfigurationError

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
App: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]

FORWARDED_HEADER = b"x-forwarded-for"


@lru_cache(4096)
def _network(text: str) -> Network:
    return ipaddress.ip_network(text, strict=False)


def is_within(address: str | None, networks: Iterable[str]) -> bool:
    """Return whether an address is in one of the networks (CIDR); one that is no address is in none."""
    try:
        found = ipaddress.ip_address(address or "")
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None) or found
    return any(mapped in _network(network) for network in networks)


class ForwardedClients:
    """Wraps an ASGI app: behind trusted proxies the client is whom the last of them names in X-Forwarded-For.

    Read from the right, the first address that is not a trusted proxy's is the client's: what stands left of it anybody
    may have written. A header from anyone else is not believed.
    """

    def __init__(self, app: App, proxies: Sequence[str]) -> None:
        """Take the networks of the proxies; raises `ConfigurationError` for what is none."""
        self._app = app
        self._proxies = proxies
        try:
            for proxy in proxies:
                _network(proxy)
        except ValueError as error:
            raise ConfigurationError(f"trusted_proxies: {error}") from None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request under its client's address."""
        if scope["type"] == "http" and scope.get("client") and is_within(scope["client"][0], self._proxies):
            scope = scope | {"client": (self._client(scope), 0)}
        await self._app(scope, receive, send)

    def _client(self, scope: Any) -> str:
        named = b",".join(value for name, value in scope["headers"] if name == FORWARDED_HEADER)
        hops = [hop.strip() for hop in named.decode("latin-1").split(",")]
        peer: str = scope["client"][0]
        for hop in reversed(hops):
            if not _is_address(hop):
                return peer
            peer = hop
            if not is_within(hop, self._proxies):
                return hop
        return peer


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
