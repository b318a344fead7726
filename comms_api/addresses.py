"""Addresses and networks of clients, in one form: an IPv4 address mapped into IPv6 is an IPv4 address."""

import ipaddress
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple, TypeAlias

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

MAPPED_PREFIX_BITS = 96


class Address(NamedTuple):
    """A host and a port, as ASGI scopes hold them."""

    host: str
    port: int


def address_of(name: object) -> Address | None:
    """Return the address of a socket by its name; None for a socket without one."""
    if not isinstance(name, tuple):
        return None
    return Address(unmap(name[0]), name[1])


def unmap(host: str) -> str:
    """Return the IPv4 address that an IPv6 address maps (`::ffff:192.0.2.1`, `::ffff:c000:201`), or else the host."""
    if not host.startswith("::ffff:"):
        return host
    try:
        return str(ipaddress.IPv6Address(host).ipv4_mapped or host)
    except ValueError:
        return host


@lru_cache(4096)
def read_network(text: str) -> Network:
    """Return a network in CIDR notation; one that maps IPv4 into IPv6 (`::ffff:192.0.2.0/120`) is an IPv4 network.

    Raises `ValueError` for any other text.
    """
    network = ipaddress.ip_network(text, strict=False)
    mapped = network.network_address.ipv4_mapped if isinstance(network, ipaddress.IPv6Network) else None
    if mapped is None or network.prefixlen < MAPPED_PREFIX_BITS:
        return network
    return ipaddress.ip_network((str(mapped), network.prefixlen - MAPPED_PREFIX_BITS))


def is_within(address: str | None, networks: Iterable[str]) -> bool:
    """Return whether an address is in one of the networks (CIDR); any other text is in none."""
    try:
        parsed = ipaddress.ip_address(address or "")
    except ValueError:
        return False
    unmapped = getattr(parsed, "ipv4_mapped", None) or parsed
    return any(unmapped in read_network(network) for network in networks)


def network_of(host: str) -> str:
    """Return the network that one client is likely to own: an IPv4 address, or the /64 of an IPv6 address.

    The network of such a network is the network itself.
    """
    host = unmap(host)
    if ":" not in host or "/" in host:
        return host
    return str(ipaddress.ip_network((host.partition("%")[0], 64), strict=False))
