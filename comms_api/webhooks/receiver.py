"""Send a delivery to its receiver, but never to an address that must not be reachable through this server."""

import asyncio
import socket
import ssl
from collections.abc import Mapping, Sequence
from ipaddress import IPv6Address, IPv6Network, ip_address

import httpx

from comms_api.addresses import is_within, unmap
from comms_api.errors import ConfigurationError, Invalid, Unavailable
from comms_api.fairness.executors import BoundedExecutor
from comms_api.settings import Settings

ATTEMPT_SECONDS = 10.0
"""The time for the resolution, the connection and the answer of one attempt together."""

RESOLVER_THREADS = 8
RESOLUTIONS_MAXIMUM = 64
PORT_MAXIMUM = 65_535

_TRANSLATED = tuple(map(IPv6Network, ("::/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16")))
"""Networks whose addresses contain an IPv4 address, which may be a private one."""


class DeliveryFailed(Exception):
    """The receiver did not accept a delivery; the message says why."""


class Receivers:
    """Sends requests to receivers over TLS, without proxies and redirects, to addresses that are allowed."""

    def __init__(self, settings: Settings) -> None:
        self._networks = settings.webhook_networks
        try:
            self._tls = ssl.create_default_context(cafile=settings.webhook_ca)
        except OSError as error:
            raise ConfigurationError(f"webhook_ca: contains no readable certificate: {error}") from None
        self._resolver = BoundedExecutor("names of webhooks", RESOLVER_THREADS, RESOLUTIONS_MAXIMUM)

    def check_url(self, text: str) -> None:
        """Raise `Invalid` for a URL that no delivery can use; names are resolved at each delivery."""
        try:
            url = httpx.URL(text)
        except httpx.InvalidURL as error:
            raise Invalid(f"url: {error}") from None
        host = url.raw_host.decode()
        if url.scheme != "https" or not host or not 0 < (url.port or 443) <= PORT_MAXIMUM:
            raise Invalid("url: must have the form https://HOST/PATH")
        if url.userinfo or url.fragment:
            raise Invalid("url: must contain neither a user nor a fragment")
        try:
            ip_address(host)
        except ValueError:
            return
        if not self.may_reach(host):
            raise Invalid(f"url: {host} is not a public address; the setting webhook_networks can allow it")

    def may_reach(self, address: str) -> bool:
        """Return whether deliveries may go to an address: a public one, or one in the allowed networks."""
        address = unmap(address)
        if is_within(address, self._networks):
            return True
        parsed = ip_address(address)
        if isinstance(parsed, IPv6Address) and (parsed.is_site_local or any(parsed in one for one in _TRANSLATED)):
            return False
        return parsed.is_global and not parsed.is_multicast

    async def post(self, text: str, content: bytes, headers: Mapping[str, str]) -> None:
        """Post a body; raises `DeliveryFailed` unless the receiver answers with 2xx in time."""
        url = httpx.URL(text)
        try:
            async with asyncio.timeout(ATTEMPT_SECONDS):
                address = await self._resolve(url.raw_host, url.port or 443)
                status = await self._post(url, address, content, headers)
        except TimeoutError:
            raise DeliveryFailed(f"no answer within {ATTEMPT_SECONDS:g} s") from None
        except (httpx.HTTPError, ssl.SSLError, OSError, Unavailable) as error:
            raise DeliveryFailed(f"{type(error).__name__}: {error}") from error
        if not httpx.codes.is_success(status):
            raise DeliveryFailed(f"status {status}")

    async def _resolve(self, host: bytes, port: int) -> str:
        """Return the first allowed address of a host, in its ASCII form: Python encodes text by an older IDNA."""
        found = await self._resolver.run(host, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        addresses: Sequence[str] = [str(name[0]) for *_, name in found]
        for address in addresses:
            if "%" not in address and self.may_reach(address):
                return address
        raise DeliveryFailed(f"{host.decode()} has no public address; the setting webhook_networks can allow others")

    async def _post(self, url: httpx.URL, address: str, content: bytes, headers: Mapping[str, str]) -> int:
        """Post to the resolved address itself, so that a second resolution cannot lead elsewhere; return the status."""
        async with httpx.AsyncClient(verify=self._tls, trust_env=False, timeout=ATTEMPT_SECONDS) as client:
            request = client.build_request(
                "POST",
                url.copy_with(host=address),
                content=content,
                headers={**headers, "Host": url.netloc.decode(), "Content-Type": "application/json"},
                extensions={"sni_hostname": url.raw_host.decode()},
            )
            answer = await client.send(request, stream=True)
            await answer.aclose()  # the body is not needed, and may be long
            return answer.status_code
