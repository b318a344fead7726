"""Send a delivery to its receiver, but never to an address that must not be reachable through this server."""

import asyncio
import ssl
from collections.abc import Mapping
from importlib import import_module
from ipaddress import IPv6Address, IPv6Network, ip_address
from types import ModuleType

from comms_api.addresses import is_within, unmap
from comms_api.errors import ConfigurationError, Invalid
from comms_api.settings import Settings
from comms_api.webhooks.model import ATTEMPT_SECONDS, DeliveryFailed
from comms_api.webhooks.resolver import Resolver

_TRANSLATED = tuple(map(IPv6Network, ("::/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16")))
"""Networks whose addresses contain an IPv4 address, which may be a private one."""


class Receivers:
    """Sends requests to receivers over TLS, without proxies and redirects, to addresses that are allowed."""

    def __init__(self, settings: Settings) -> None:
        self._networks = settings.webhook_networks
        try:
            self._tls = ssl.create_default_context(cafile=settings.webhook_ca)
        except OSError as error:
            raise ConfigurationError(f"webhook_ca: contains no readable certificate: {error}") from None
        self._resolver = Resolver()

    def check_url(self, text: str) -> None:
        """Raise `Invalid` for a URL that no delivery can use; names are resolved at each delivery."""
        host: str = _https().read_url(text).raw_host.decode()
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
        https = _https()
        url = https.read_url(text)
        try:
            async with asyncio.timeout(ATTEMPT_SECONDS):
                address = await self._resolve(url.raw_host)
                await https.post(url, address, content, headers, self._tls)
        except TimeoutError:
            raise DeliveryFailed(f"no answer within {ATTEMPT_SECONDS:g} s") from None
        except OSError as error:  # includes TLS errors
            raise DeliveryFailed(f"{type(error).__name__}: {error}") from error

    async def _resolve(self, host: bytes) -> str:
        """Return the first allowed address of a host."""
        for address in await self._resolver.resolve(host):
            if "%" not in address and self.may_reach(address):
                return address
        raise DeliveryFailed(f"{host.decode()} has no public address; the setting webhook_networks can allow others")


def _https() -> ModuleType:
    """Import httpx when the first webhook needs it, since a worker without webhooks must not hold it in memory."""
    return import_module("comms_api.webhooks.https")
