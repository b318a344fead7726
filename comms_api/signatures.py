"""Signed orders: the bytes that an operator signs, and their signature.

The signature (Ed25519, RFC 8032) covers the payload as bytes. The server stores and carries these bytes unchanged, and
an agent executes what they say, so nobody between the operator and the agent can change an order or make one.
"""

import base64
import binascii
from datetime import datetime, timedelta
from typing import Annotated, Literal
from uuid import UUID

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from msgspec import Meta

from comms_api.protocol import Action, Signed

SIGNED_AGENTS_MAXIMUM = 500
"""Every agent gets the whole payload, so its list of agents is short."""

SIGNED_COMMANDS_MAXIMUM = 20
"""The maximum number of signed commands in one request: verifying one takes up to a millisecond."""

VALIDITY_MAXIMUM = timedelta(days=31)
"""An agent remembers the nonces of valid payloads."""

PAYLOAD_BYTES_MAXIMUM = 128 * 1024


class Payload(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The permission that a signature gives: these agents may perform this action once, between two times."""

    purpose: Literal["comms-api order"] = "comms-api order"
    """Keeps signatures for other purposes from being used here."""

    agents: Annotated[list[UUID], Meta(min_length=1, max_length=SIGNED_AGENTS_MAXIMUM)]
    action: Action
    nonce: Annotated[str, Meta(min_length=16, max_length=128, pattern=r"\A[A-Za-z0-9_-]+\Z")]
    not_before: Annotated[datetime, Meta(tz=True)]
    not_after: Annotated[datetime, Meta(tz=True)]


class BadSignature(ValueError):
    """A signature, a payload or a key that cannot be used; the message says why."""


_PAYLOAD = msgspec.json.Decoder(Payload)


def sign(payload: Payload, key: Ed25519PrivateKey) -> Signed:
    """Return a payload with its signature and the key that verifies it."""
    content = msgspec.json.encode(payload)
    return Signed(_text(content), _text(key.sign(content)), public_text(key.public_key()))


def verify(signed: Signed) -> Payload:
    """Return the payload that the named key has signed; raises `BadSignature`.

    The caller decides whether it trusts that key.
    """
    content = _bytes("payload", signed.payload)
    if len(content) > PAYLOAD_BYTES_MAXIMUM:
        raise BadSignature(f"the payload is larger than {PAYLOAD_BYTES_MAXIMUM} bytes")
    try:
        key = Ed25519PublicKey.from_public_bytes(_bytes("key", signed.key))
        key.verify(_bytes("signature", signed.signature), content)
    except InvalidSignature:
        raise BadSignature("the signature does not match the payload") from None
    except BadSignature:
        raise
    except ValueError as error:
        raise BadSignature(f"the key is not an Ed25519 public key: {error}") from None
    try:
        payload = _PAYLOAD.decode(content)
    except (ValueError, RecursionError) as error:
        raise BadSignature(f"the payload is not an order: {error}") from None
    if not timedelta(0) < payload.not_after - payload.not_before <= VALIDITY_MAXIMUM:
        raise BadSignature(f"the payload must be valid for some time, but at most {VALIDITY_MAXIMUM.days} days")
    return payload


def read_private_key(pem: bytes) -> Ed25519PrivateKey:
    """Return an unencrypted private key from PEM; raises `BadSignature`."""
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError) as error:
        raise BadSignature(f"not an unencrypted private key in PEM: {error}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise BadSignature("not an Ed25519 key; make one with: openssl genpkey -algorithm ed25519")
    return key


def read_public_key(pem: bytes) -> str:
    """Return the text of a public key from PEM; raises `BadSignature`."""
    try:
        key = load_pem_public_key(pem)
    except ValueError as error:
        raise BadSignature(f"not a public key in PEM: {error}") from None
    if not isinstance(key, Ed25519PublicKey):
        raise BadSignature("not an Ed25519 public key")
    return public_text(key)


def public_text(key: Ed25519PublicKey) -> str:
    """Return the base64 of a key's 32 bytes, by which signed orders and registered actions name it."""
    return _text(key.public_bytes_raw())


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _bytes(name: str, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise BadSignature(f"the {name} is not base64") from None
