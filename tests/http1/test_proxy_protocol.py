"""PROXY headers of both versions are read exactly, and any other bytes are refused (HAProxy's proxy-protocol.txt)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comms_api.addresses import Address, network_of, unmap
from comms_api.http1.proxy_protocol import V2_SIGNATURE, Header, parse_header

SOURCE_4, TARGET_4 = bytes([203, 0, 113, 9]), bytes([192, 0, 2, 1])
SOURCE_6, TARGET_6 = bytes.fromhex("20010db8" + "0" * 23 + "5"), bytes.fromhex("20010db8" + "0" * 24)
PORTS = (51234).to_bytes(2, "big") + (27000).to_bytes(2, "big")
TLV = b"\x05\x00\x03abc"


def v2(command: int, family: int, payload: bytes) -> bytes:
    return V2_SIGNATURE + bytes([command, family]) + len(payload).to_bytes(2, "big") + payload


HEADERS = [
    (b"PROXY TCP4 203.0.113.9 192.0.2.1 51234 27000\r\n", ("203.0.113.9", 51234)),
    (b"PROXY TCP6 2001:db8::5 2001:db8:: 51234 27000\r\n", ("2001:db8::5", 51234)),
    (b"PROXY UNKNOWN\r\n", None),
    (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", None),
    (v2(0x21, 0x11, SOURCE_4 + TARGET_4 + PORTS), ("203.0.113.9", 51234)),
    (v2(0x21, 0x11, SOURCE_4 + TARGET_4 + PORTS + TLV), ("203.0.113.9", 51234)),
    (v2(0x21, 0x21, SOURCE_6 + TARGET_6 + PORTS), ("2001:db8::5", 51234)),
    (b"PROXY TCP6 ::ffff:203.0.113.9 2001:db8:: 51234 27000\r\n", ("203.0.113.9", 51234)),
    (v2(0x21, 0x21, bytes.fromhex("00" * 10 + "ffff") + SOURCE_4 + TARGET_6 + PORTS), ("203.0.113.9", 51234)),
    (v2(0x20, 0x00, b""), None),
    (v2(0x21, 0x31, b"\0" * 216), None),
]


@pytest.mark.parametrize(("header", "client"), HEADERS)
def test_a_header_ends_at_its_announced_length_however_it_arrives(
    header: bytes, client: tuple[str, int] | None
) -> None:
    assert [parse_header(header[:size]) for size in range(1, len(header))] == [None] * (len(header) - 1)
    expected = Header(len(header), Address(*client) if client else None)
    assert parse_header(header + b"\x16\x03\x01 a client's hello") == expected


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02",
        b"GET / HTTP/1.1\r\n",
        b"PROXY TCP4 2001:db8::5 192.0.2.1 51234 27000\r\n",
        b"PROXY TCP4 203.0.113.9 192.0.2.1 -1 27000\r\n",
        b"PROXY TCP4 203.0.113.9\r\n",
        b"PROXY TCP4 " + b"1" * 200,
        v2(0x22, 0x11, SOURCE_4 + TARGET_4 + PORTS),
        v2(0x31, 0x11, SOURCE_4 + TARGET_4 + PORTS),
        v2(0x21, 0x21, SOURCE_4 + TARGET_4 + PORTS),
        v2(0x21, 0x11, b"\0" * 5000),
    ],
)
def test_a_malformed_header_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"PROXY header|IPv4|IPv6"):
        parse_header(data)


@given(st.binary(max_size=300) | st.binary(max_size=200).map(lambda payload: V2_SIGNATURE + payload))
def test_no_bytes_raise_another_error(data: bytes) -> None:
    try:
        header = parse_header(data)
    except ValueError:
        return
    assert header is None or header.size_bytes <= len(data)


@pytest.mark.parametrize(
    ("host", "plain", "network"),
    [
        ("192.0.2.1", "192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1", "192.0.2.1"),
        ("::ffff:c000:201", "192.0.2.1", "192.0.2.1"),
        ("::ffff:1", "::ffff:1", "::/64"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::1%eth0", "fe80::/64"),
        ("::1", "::1", "::/64"),
    ],
)
def test_mapped_addresses_are_ipv4_and_an_ipv6_client_is_its_64(host: str, plain: str, network: str) -> None:
    assert unmap(host) == plain
    assert network_of(unmap(host)) == network
