"""Find the client of a request in the header that a trusted proxy sets."""

import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, TypeAlias

from comms_api.addresses import Address, is_within

Headers: TypeAlias = Iterable[tuple[bytes, bytes]]
ForwardedHeader = Literal["X-Forwarded-For", "Forwarded"]


class TrustedProxies:
    """Finds the client of a request in one header, if the request comes from a trusted proxy.

    Only the header that the proxies set is read, because they forward the other header as the client sent it. The
    client is the rightmost address that is not a trusted proxy; anyone may have written the addresses to its left.
    Headers of other peers are ignored.
    """

    def __init__(self, networks: Sequence[str] = (), header: ForwardedHeader = "X-Forwarded-For") -> None:
        self._networks = networks
        self._header = header.lower().encode()
        self._hops = _hops_of_forwarded if header == "Forwarded" else _hops_of_x_forwarded_for

    def find_client(self, peer: Address | None, headers: Headers) -> Address | None:
        """Return the client of a request from this peer: the peer itself, unless the header names another."""
        if not self._networks or peer is None or not is_within(peer.host, self._networks):
            return peer
        value = b",".join(value for name, value in headers if name == self._header).decode("latin-1")
        nearest = peer.host
        for hop in self._hops(value):
            address = find_address(hop)
            if address is None:
                break
            nearest = address
            if not is_within(address, self._networks):
                break
        return Address(nearest, 0)


def _hops_of_x_forwarded_for(value: str) -> Iterator[str]:
    return reversed(value.split(","))


def _hops_of_forwarded(value: str) -> Iterator[str]:
    """Yield the `for` of each element (RFC 7239), last first, so that a client's unclosed quote spoils no later one."""
    for element in _elements_from_the_right(value):
        pairs = (pair.partition("=") for pair in element.split(";"))
        yield next((node.strip().strip('"') for name, _, node in pairs if name.strip().lower() == "for"), "")


def _elements_from_the_right(value: str) -> Iterator[str]:
    end, is_quoted = len(value), False
    for index in range(len(value) - 1, -1, -1):
        if value[index] == '"':
            is_quoted = not is_quoted
        elif value[index] == "," and not is_quoted:
            yield value[index + 1 : end]
            end = index
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
