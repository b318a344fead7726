"""The route to a server: its URL, the authority that signs its certificate, and the proxy."""

import re
import socket
import ssl
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any
from urllib.request import getproxies

import httpx
import msgspec

from comms_api.errors import ConfigurationError

PORT_MAXIMUM = 65_535
_KEEP_ALIVE_TIMES = {"TCP_KEEPIDLE": 20, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
KEEP_ALIVE = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in _KEEP_ALIVE_TIMES.items()
        if hasattr(socket, name)
    ),
]
"""The kernel ends a connection to a host that has been unreachable for 35 seconds, also while a poll is held."""

_NO_PROXY_ENTRY = re.compile(r"(?:.*://)?(?P<host>\[.*\]|[^:]*|.*:.*:.*?)(?::(?P<port>\d+))?")
"""A name, an address or a network in NO_PROXY, with an optional scheme and port."""


class Endpoint(msgspec.Struct, frozen=True):
    """A server and the route to it. Without `proxy`, the proxy of the environment is used, unless `is_direct`.

    A lower `priority` is better; `weight` is the server's share among those of one priority.
    """

    url: str
    ca: Path | None = None
    proxy: str | None = None
    is_direct: bool = False
    priority: int = 0
    weight: int = 1

    def client(self, timeout_seconds: float, tls: ssl.SSLContext | None = None) -> httpx.Client:
        """Return a client for this server; raises `ConfigurationError` if the URL, the proxy or `ca` is invalid.

        `tls` replaces the context that trusts `ca`.
        """
        transport = httpx.HTTPTransport(**self._transport_options() | ({"verify": tls} if tls else {}))
        return httpx.Client(base_url=self._url(), transport=transport, timeout=timeout_seconds, trust_env=False)

    def async_client(self, timeout_seconds: float) -> httpx.AsyncClient:
        """Return an asynchronous client for this server; raises `ConfigurationError` as `client` does."""
        transport = httpx.AsyncHTTPTransport(**self._transport_options())
        return httpx.AsyncClient(base_url=self._url(), transport=transport, timeout=timeout_seconds, trust_env=False)

    def _url(self) -> httpx.URL:
        url = _find_url(self.url, {"https"})
        if url is None:
            raise ConfigurationError(f"{self.url!r} does not have the form https://HOST:PORT")
        return url

    def _transport_options(self) -> dict[str, Any]:
        proxy = None if self.is_direct else self._find_proxy(self._url())
        # httpx must not read the environment: it fails on some valid values.
        options = {"verify": tls_context(self.ca), "proxy": proxy, "trust_env": False}
        return options | {"socket_options": KEEP_ALIVE}

    def _find_proxy(self, url: httpx.URL) -> httpx.Proxy | None:
        if self.proxy:
            return _proxy("--proxy", self.proxy)
        proxies = getproxies()
        scheme = next((scheme for scheme in ("https", "all") if proxies.get(scheme)), None)
        if scheme is None or is_exempt(url, proxies.get("no", "")):
            return None
        return _proxy(f"{scheme.upper()}_PROXY", proxies[scheme])


def tls_context(ca: Path | None) -> ssl.SSLContext:
    """Return a context that trusts every certificate in `ca`, or without it the system's authorities."""
    try:
        context = ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise ConfigurationError(f"{ca} contains no readable certificate: {error}") from None
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # as Python 3.13 does: an intermediate may be trusted
    return context


def is_exempt(url: httpx.URL, no_proxy: str) -> bool:
    """Return whether NO_PROXY exempts a URL: by `*`, a domain with its subdomains, an address or a network."""
    for entry in re.split(r"[\s,]+", no_proxy):
        found = _NO_PROXY_ENTRY.fullmatch(entry)
        if found and found["host"] and found["port"] in {None, str(url.port or 443)}:
            host = found["host"].strip("[]").lower()
            if host == "*" or _is_in_network(url.host, host) or f".{url.host}".endswith(f".{host.lstrip('*.')}"):
                return True
    return False


def _is_in_network(host: str, network: str) -> bool:
    try:
        return ip_address(host) in ip_network(network, strict=False)
    except ValueError:
        return False


def _proxy(source: str, text: str) -> httpx.Proxy:
    url = _find_url(text if "://" in text else f"http://{text}", {"http", "https"})
    if url is None:
        shown = text.rpartition("@")[2]  # a password may precede it
        raise ConfigurationError(
            f"{source}: {shown!r} cannot be used as a proxy: it must have the form http://HOST:PORT;"
            " pass --proxy to use another one, or --no-proxy to use none"
        )
    return httpx.Proxy(url)


def _find_url(text: str, schemes: set[str]) -> httpx.URL | None:
    try:
        url = httpx.URL(text)
        is_usable = url.scheme in schemes and url.host and 0 < (url.port or 443) <= PORT_MAXIMUM
    except (httpx.InvalidURL, UnicodeError):  # the second for a name that only begins like IDNA
        return None
    return url if is_usable else None
