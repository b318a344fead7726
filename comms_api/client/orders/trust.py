"""Decide which orders the agent executes: all of them, or only those that a trusted key has signed for it.

With trusted keys, only the signed payload of an order counts: somebody who controls the server can delay or drop an
order, but cannot change, redirect, repeat or make one.
"""

from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import msgspec

from comms_api.errors import CommsError, ConfigurationError
from comms_api.protocol import Order
from comms_api.signatures import BadSignature, Payload, read_public_key, verify


class Untrusted(CommsError):
    """An order that the agent refuses to execute."""


class Admitted(msgspec.Struct, frozen=True):
    """An order that the agent may execute; a signed one has a nonce, which counts until `expires_at` (seconds)."""

    order: Order
    nonce: str | None = None
    expires_at: float = 0.0


class Trust:
    """Admits the orders of one agent; without keys, every order."""

    def __init__(self, keys: Collection[str], agent_id: str) -> None:
        self._keys = frozenset(keys)
        self._agent_id = agent_id

    def admit(self, order: Order) -> Admitted:
        """Return the order as the agent may execute it; raises `Untrusted`."""
        if not self._keys:
            return Admitted(order)
        payload = self._verified(order)
        now = datetime.now(UTC)
        if UUID(self._agent_id) not in payload.agents:
            raise Untrusted("the signed order is for other agents")
        if now < payload.not_before:
            raise Untrusted(f"the signed order is not valid before {payload.not_before.isoformat()}")
        if now >= payload.not_after:
            raise Untrusted(f"the signed order expired at {payload.not_after.isoformat()}")
        signed_order = msgspec.structs.replace(order, action=payload.action)
        return Admitted(signed_order, payload.nonce, payload.not_after.timestamp())

    def _verified(self, order: Order) -> Payload:
        if order.signed is None:
            raise Untrusted("this agent executes only signed orders")
        if order.signed.key not in self._keys:
            raise Untrusted("this agent does not trust the key that signed the order")
        try:
            return verify(order.signed)
        except BadSignature as error:
            raise Untrusted(str(error)) from None


def read_trusted_keys(files: Collection[Path]) -> list[str]:
    """Return the public keys of PEM files; raises `ConfigurationError`."""
    keys = []
    for file in files:
        try:
            keys.append(read_public_key(file.read_bytes()))
        except (OSError, BadSignature) as error:
            raise ConfigurationError(f"--trust-key {file}: {error}") from None
    return keys
