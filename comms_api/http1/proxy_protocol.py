"""Read the header in which a load balancer names its client (HAProxy's PROXY protocol, versions 1 and 2).

The header precedes the client's bytes, and so it precedes TLS. Exactly its bytes are read from the socket.
"""

import ipaddress
import socket

import msgspec

from comms_api.addresses import Address, unmap
from comms_api.http1.readiness import wait_until_readable

HEADER_BYTES_MAXIMUM = 4096
V1_BYTES_MAXIMUM = 107
V2_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
V2_PREFIX_BYTES = 16
_PROXY, _LOCAL = 0x21, 0x20
_V2_ADDRESS_BYTES = {0x11: 4, 0x21: 16}
"""The size of an address by family and transport: TCP over IPv4 and IPv6."""


class Header(msgspec.Struct, frozen=True):
    """A whole header: its size, and the client if it names one (a health check of the balancer names none)."""

    size_bytes: int
    client: Address | None


async def read_header(connection: socket.socket) -> Address | None:
    """Read the header from a non-blocking socket and return the client it names; raises `ValueError`, `EOFError`."""
    head = b""
    while True:
        await wait_until_readable(connection)
        peeked = connection.recv(HEADER_BYTES_MAXIMUM, socket.MSG_PEEK)
        if not peeked:
            raise EOFError("the connection ended before its PROXY header")
        header = parse_header(head + peeked)
        connection.recv(len(peeked) if header is None else header.size_bytes - len(head))
        if header is not None:
            return header.client
        head += peeked


def parse_header(data: bytes) -> Header | None:
    """Return the header at the start of the bytes, or None if it is incomplete; raises `ValueError` without one."""
    if data[: len(V2_SIGNATURE)] == V2_SIGNATURE[: len(data)]:
        return _parse_v2(data) if len(data) >= V2_PREFIX_BYTES else None
    if data[:6] == b"PROXY "[: len(data)]:
        return _parse_v1(data)
    raise ValueError("the connection does not begin with a PROXY header")


def _parse_v1(data: bytes) -> Header | None:
    line, end, _ = data[:V1_BYTES_MAXIMUM].partition(b"\r\n")
    if not end:
        if len(data) >= V1_BYTES_MAXIMUM:
            raise ValueError("the PROXY header has no end")
        return None
    size = len(line) + len(end)
    match line.decode("latin-1").split(" "):
        case ["PROXY", "UNKNOWN", *_]:
            return Header(size, None)
        case ["PROXY", "TCP4" | "TCP6" as family, source, _, port, _]:
            host = ipaddress.ip_address(source)
            if port.isdecimal() and family == f"TCP{host.version}":
                return Header(size, Address(unmap(str(host)), int(port)))
    raise ValueError("the PROXY header is malformed")


def _parse_v2(data: bytes) -> Header | None:
    command, family = data[12], data[13]
    size = V2_PREFIX_BYTES + int.from_bytes(data[14:16], "big")
    if command not in {_PROXY, _LOCAL} or size > HEADER_BYTES_MAXIMUM:
        raise ValueError("the PROXY header is malformed or too large")
    if len(data) < size:
        return None
    address_bytes = _V2_ADDRESS_BYTES.get(family)
    if command == _LOCAL or address_bytes is None:
        return Header(size, None)
    if size < V2_PREFIX_BYTES + 2 * address_bytes + 4:
        raise ValueError("the PROXY header is too short for its addresses")
    host = ipaddress.ip_address(data[V2_PREFIX_BYTES : V2_PREFIX_BYTES + address_bytes])
    ports_at = V2_PREFIX_BYTES + 2 * address_bytes
    return Header(size, Address(unmap(str(host)), int.from_bytes(data[ports_at : ports_at + 2], "big")))
