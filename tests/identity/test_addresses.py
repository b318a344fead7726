"""Source addresses: the forms in which trusted proxies send them, and IPv4-mapped IPv6 addresses as IPv4."""

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from support.server import KEY, running_server
from support.waiting import PATIENCE, wait_until

from comms_api.addresses import Address, is_within
from comms_api.http1.forwarded import ForwardedHeader, TrustedProxies, find_address


@pytest.mark.parametrize(
    ("hop", "address"),
    [
        ("203.0.113.9", "203.0.113.9"),
        (" 203.0.113.9:51234 ", "203.0.113.9"),
        ("2001:DB8::5", "2001:db8::5"),
        ("[2001:db8::5]", "2001:db8::5"),
        ("[2001:db8::5]:443", "2001:db8::5"),
        ("::ffff:1.2.3.4", "1.2.3.4"),
        ("::ffff:102:304", "1.2.3.4"),
        ("[::FFFF:1.2.3.4]:80", "1.2.3.4"),
        ("[203.0.113.9]:80", "203.0.113.9"),
        *(
            (wrong, None)
            for wrong in ("", "unknown", "_hidden", "[2001:db8::5", "[::1]x", "1.2.3.4:5:6", "1.2.3", "host:1")
        ),
    ],
)
def test_a_hop_may_have_a_port_and_brackets(hop: str, address: str | None) -> None:
    assert find_address(hop) == address


def client_of(header: ForwardedHeader, *headers: tuple[str, str], peer: str = "10.0.0.1") -> str:
    """Return the client of a request with these headers."""
    proxies = TrustedProxies(["10.0.0.0/8", "::ffff:192.0.2.0/120"], header)
    client = proxies.find_client(Address(peer, 5), [(name.lower().encode(), value.encode()) for name, value in headers])
    assert client is not None
    return client.host


@pytest.mark.parametrize(
    ("value", "client"),
    [
        ("for=203.0.113.9", "203.0.113.9"),
        ('For="203.0.113.9:51234"; proto=https;by=10.0.0.1', "203.0.113.9"),
        ('for="[2001:db8::5]:443"', "2001:db8::5"),
        ("for=6.6.6.6, for=203.0.113.9, for=192.0.2.7", "203.0.113.9"),
        ('proto="a, for=6.6.6.6", for=203.0.113.9', "203.0.113.9"),
        ('for="6.6.6.6, for=203.0.113.9', "203.0.113.9"),
        ("for=203.0.113.9, for=unknown", "10.0.0.1"),
        ("for=203.0.113.9, proto=https", "10.0.0.1"),
        ("", "10.0.0.1"),
    ],
)
def test_the_header_forwarded_is_read_from_the_right(value: str, client: str) -> None:
    assert client_of("Forwarded", ("Forwarded", value), ("X-Forwarded-For", "6.6.6.6")) == client


@pytest.mark.parametrize(
    ("value", "client"),
    [
        ("203.0.113.9:51234", "203.0.113.9"),
        ("[2001:db8::5]:443", "2001:db8::5"),
        ("6.6.6.6, 203.0.113.9, 192.0.2.7:80", "203.0.113.9"),
        ("203.0.113.9, unknown", "10.0.0.1"),
    ],
)
def test_only_the_header_of_the_setting_is_read(value: str, client: str) -> None:
    assert client_of("X-Forwarded-For", ("X-Forwarded-For", value), ("Forwarded", "for=6.6.6.6")) == client
    assert client_of("X-Forwarded-For", ("X-Forwarded-For", value), peer="203.0.113.1") == "203.0.113.1"


def test_a_mapped_network_holds_ipv4_addresses() -> None:
    assert is_within("10.1.2.3", ["::ffff:10.0.0.0/104"])
    assert is_within("::ffff:10.1.2.3", ["10.0.0.0/8"])
    assert not is_within("11.1.2.3", ["::ffff:10.0.0.0/104"])


def test_an_ipv4_client_of_an_ipv6_socket_is_shown_and_compared_as_ipv4(
    folder: Path, new_database: Callable[[], str]
) -> None:
    settings = {"agent_bind": "[::]:0", "trusted_proxies": "127.0.0.1", "forwarded_header": "Forwarded"}
    with running_server(folder / "dual", new_database(), **settings) as server:
        management = server.management()
        agent_id = server.enroll(management, "dual")
        allowed = management.patch(f"/agents/{agent_id}", json={"allowed_addresses": ["::ffff:127.0.0.0/104"]}).json()
        assert allowed["allowed_addresses"] == ["127.0.0.0/8"]
        url = f"https://127.0.0.1:{server.agent_port}"
        with httpx.Client(base_url=url, verify=server.tls, timeout=PATIENCE) as client:
            body = {"uuid": str(agent_id), "key": KEY}
            assert client.post("/login", json=body).status_code == 200
            wait_until(lambda: management.get(f"/agents/{agent_id}").json()["remote_address"] == "127.0.0.1")
            elsewhere = client.post("/login", json=body, headers={"Forwarded": 'for="203.0.113.9:51234"'})
            assert elsewhere.status_code == 403
