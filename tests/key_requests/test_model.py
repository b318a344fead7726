"""Questions, agents and settings are valid, or cannot be created."""

import sys
from pathlib import Path

import msgspec
import pytest
from support.sources import KEY, agent

from comms_api.errors import Invalid
from comms_api.key_requests.model import ExternalAgent, KeySettings, Question, normal_addresses, printable

UUID = "01920a5e-7a3c-7cc1-8f4e-1d2b3c4d5e6f"


@pytest.mark.parametrize(
    ("kind", "value", "normal"),
    [
        ("id", "001", "001"),
        ("id", "12345678", "12345678"),
        ("id", UUID.upper(), UUID),
        ("ip", "192.168.1.100", "192.168.1.100"),
        ("ip", "2001:DB8:0:0::1", "2001:db8::1"),
        ("ip", "::ffff:10.0.0.1", "10.0.0.1"),
    ],
)
def test_equal_questions_are_equal(kind: str, value: str, normal: str) -> None:
    assert msgspec.convert({"kind": kind, "value": value}, Question).value == normal


@pytest.mark.parametrize(
    "value",
    ["", "01", "123456789", "001\n", "\u0660\u0660\u0661", "-001", "001; ls", "001\0", UUID[:-1], f"{{{UUID}}}"],
)
def test_an_invalid_id_is_refused(value: str) -> None:
    with pytest.raises(Invalid):
        Question("id", value)


@pytest.mark.parametrize("value", ["", "any", "10.0.0.0/8", "10.0.0.256", "010.0.0.1", "fe80::1%eth0", "1.1.1.1\n"])
def test_an_invalid_address_is_refused(value: str) -> None:
    with pytest.raises(Invalid):
        Question("ip", value)


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("any", "any"),
        ("Any", "any"),
        ("ANY", "any"),
        ("10.1.2.3", "10.1.2.3"),
        ("10.1.2.3/255.0.0.0", "10.0.0.0/8"),
        ("10.1.2.3/255.255.255.255", "10.1.2.3"),
        ("10.1.2.3/0.0.0.0", "0.0.0.0/0"),
        ("10.1.2.3/32", "10.1.2.3"),
        ("10.1.2.3/8", "10.0.0.0/8"),
        ("2001:db8::1/32", "2001:db8::/32"),
        ("::ffff:10.1.2.3/104", "10.0.0.0/8"),
        ("::ffff:10.1.2.3/128", "10.1.2.3"),
        ("::/0", "::/0"),
    ],
)
def test_addresses_have_one_form(written: str, normal: str) -> None:
    assert normal_addresses(written) == normal


@pytest.mark.parametrize(
    "written",
    [
        *("", "all", "10.0.0.0/33", "10.0.0.0/-1", "/8", "1.1.1.1/", "10.0.0.0/ 8", "10.0.0.0/255.0.255.0"),
        *("10.0.0.0/0.255.255.255", "10.0.0.0/255.0.0", "2001:db8::/255.0.0.0", "::ffff:10.0.0.0/255.0.0.0"),
    ],
)
def test_the_error_for_an_invalid_address_does_not_repeat_it(written: str) -> None:
    with pytest.raises(ValueError, match=r"^expected an address, a CIDR network or `any`$"):
        normal_addresses(written)


@pytest.mark.parametrize(
    ("ip", "address", "is_admitted"),
    [
        ("any", "8.8.8.8", True),
        ("10.0.0.0/8", "10.255.255.255", True),
        ("10.0.0.0/8", "11.0.0.0", False),
        ("10.0.0.0/8", "::ffff:10.0.0.1", True),
        ("10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.2", False),
        ("2001:db8::/32", "2001:db8:ffff::1", True),
        ("2001:db8::/32", "2001:db9::1", False),
        ("0.0.0.0/0", "::1", False),
    ],
)
def test_an_agent_is_admitted_from_its_addresses_only(ip: str, address: str, *, is_admitted: bool) -> None:
    assert msgspec.convert(agent(ip=ip)["data"], ExternalAgent).admits(address) is is_admitted


def test_no_repr_contains_the_key() -> None:
    known = ExternalAgent("001", "web-1", "any", KEY)
    assert KEY not in f"{known!r} {known} {known.__rich_repr__()}"
    assert known.key == KEY


def test_an_interpreter_is_found_in_the_folders_of_the_system() -> None:
    assert KeySettings(program=("sh", "/x.sh")).program == ("/bin/sh", "/x.sh") or Path("/usr/bin/sh").exists()
    assert KeySettings(program=(sys.executable, "/x.py")).program[0] == sys.executable


@pytest.mark.parametrize(
    "wrong",
    [
        {"program": ["x.py"]},
        {"program": ["./x.py"]},
        {"program": ["/x\0.py"]},
        {"threads": 0},
        {"threads": 33},
        {"queue_size": 0},
        {"queue_size": 220_001},
        {"timeout_seconds": 0},
        {"unknown": 1},
    ],
)
def test_a_wrong_setting_is_refused_by_name(wrong: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError, match=next(iter(wrong))):
        msgspec.convert(wrong, KeySettings)


@pytest.mark.parametrize("socket", [Path("keys.sock"), Path("/" + "x" * 107)])
def test_a_socket_path_too_long_for_the_kernel_is_refused(socket: Path) -> None:
    with pytest.raises(ValueError, match=r"^socket: "):
        KeySettings(socket=socket)


def test_without_a_program_and_a_socket_key_requests_are_disabled() -> None:
    assert not KeySettings().is_enabled
    assert KeySettings(socket=Path("/run/keys.sock")).is_enabled


def test_a_message_is_one_bounded_printable_line() -> None:
    assert printable("a\r\nb\x1b[31m\0c") == "a b\ufffd[31m\ufffdc"
    assert printable("x" * 600, 10) == "xxxxxxxxxx…"
