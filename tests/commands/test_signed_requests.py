"""A signed command that cannot be read is refused with its field, whatever its payload says."""

import base64
import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from comms_api.commands.submission.requests import Caller, read_commands
from comms_api.errors import Invalid
from comms_api.protocol import Action
from comms_api.signatures import SIGNED_COMMANDS_MAXIMUM, Payload, public_text, sign

KEY = Ed25519PrivateKey.generate()
TIMES = {"not_before": "2026-11-26T00:00:00Z", "not_after": "2026-11-27T00:00:00Z"}
ORDER = {"agents": [str(uuid4())], "action": {"name": "ping"}, "nonce": "0123456789abcdef", **TIMES}


def signed(content: bytes) -> dict[str, str]:
    """Return a good signature of any bytes."""
    payload, signature = (base64.b64encode(part).decode() for part in (content, KEY.sign(content)))
    return {"payload": payload, "signature": signature, "key": public_text(KEY.public_key())}


def read(*members: object) -> None:
    body = [{"source": "Engine", "timeout": 60, "signed": member} for member in members]
    read_commands(json.dumps(body).encode(), Caller("olga", is_trusted=False, now=time.time()), 86_400)


@pytest.mark.parametrize(
    "member",
    [
        None,
        [],
        "x",
        {},
        {"payload": 1, "signature": "", "key": ""},
        {"payload": "", "signature": "", "key": ""},
        {"payload": "\u00e9", "signature": "?", "key": "\0"},
        signed(b"") | {"key": base64.b64encode(b"short").decode()},
        signed(b"x") | {"payload": base64.b64encode(b"y").decode()},
    ],
)
def test_a_signature_that_is_not_one_is_refused(member: object) -> None:
    with pytest.raises(Invalid, match=r"^commands\[0\].signed: "):
        read(member)


@pytest.mark.parametrize(
    "changes",
    [
        {"purpose": "something else"},
        {"agents": []},
        {"agents": [str(uuid4())] * 501},
        {"agents": ["web"]},
        {"nonce": "short"},
        {"nonce": "0123456789abcdef\0"},
        {"unknown": 1},
        {"not_before": "2026-11-26T00:00:00"},
        {"not_before": "9999-12-31T23:00:00Z", "not_after": "9999-12-31T23:59:59Z"},
        {"not_after": "2027-11-27T00:00:00Z"},
        {"not_after": TIMES["not_before"]},
        {"action": {"name": "ping", "args": 3}},
        {"action": {"name": "ping", "args": {"a": "\0"}}},
        {"action": {"name": ""}},
    ],
)
def test_a_payload_that_is_no_order_is_refused_though_its_signature_is_good(changes: dict[str, Any]) -> None:
    with pytest.raises(Invalid, match=r"^commands\[0\]"):
        read(signed(json.dumps(ORDER | changes).encode()))


@pytest.mark.parametrize("content", [b"", b"null", b"[", b"\xff", b"[" * 100_000, b" " * 200_000])
def test_signed_bytes_that_are_not_json_are_refused(content: bytes) -> None:
    with pytest.raises(Invalid, match=r"^commands\[0\].signed: the payload is "):
        read(signed(content))


def test_the_number_of_signatures_of_a_request_is_bounded() -> None:
    now = datetime.now(UTC)
    times = {"not_before": now, "not_after": now + timedelta(hours=1)}
    one = sign(Payload(agents=[uuid4()], action=Action("ping"), nonce="0123456789abcdef", **times), KEY)
    many = [msgspec.to_builtins(one)] * SIGNED_COMMANDS_MAXIMUM
    read(*many)
    with pytest.raises(Invalid, match="may be signed"):
        read(*many, many[0])
