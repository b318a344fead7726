"""Agents' keys: the rules for their strength, and the replacement of a key."""

import secrets
import string
from typing import Any
from uuid import UUID

import msgspec

from comms_api.agents import store
from comms_api.agents.model import Admission
from comms_api.database.connection import Connection
from comms_api.errors import Invalid
from comms_api.lockouts.model import Allowance
from comms_api.revocations.store import revoke_tokens
from comms_api.settings import Settings
from comms_api.tokens.secret import entropy_bits

KEY_LENGTH_MAXIMUM = 128
MADE_KEY_LENGTH = 32

LOGIN_FAILURES = Allowance("agent", 5, first_seconds=1.0)
"""The number of an agent's logins that may fail from one network, and how long further failures lock it out."""


class KeyRules(msgspec.Struct, frozen=True):
    """The rules that keep keys from being guessed."""

    length_minimum: int
    entropy_bits_minimum: float

    @classmethod
    def of(cls, settings: Settings) -> "KeyRules":
        """Return the rules from the settings."""
        return cls(settings.key_length_minimum, settings.key_entropy_bits_minimum)

    def is_strong(self, key: str) -> bool:
        """Return whether a key is long and random enough for a fast hash."""
        return len(key) >= self.length_minimum and entropy_bits(key) >= self.entropy_bits_minimum

    def check(self, key: str, name: str = "key") -> None:
        """Raise `Invalid`, which names the field, unless the key is strong and valid in a header."""
        if not self.length_minimum <= len(key) <= KEY_LENGTH_MAXIMUM:
            raise Invalid(f"{name}: must have {self.length_minimum} to {KEY_LENGTH_MAXIMUM} characters")
        if not (key.isascii() and key.isprintable()):
            raise Invalid(f"{name}: must be printable ASCII")
        if not self.is_strong(key):
            raise Invalid(f"{name}: could be guessed; choose it at random")


def made_key() -> str:
    """Make a random key."""
    alphabet = string.ascii_letters + string.digits
    return "".join(secrets.choice(alphabet) for _ in range(MADE_KEY_LENGTH))


async def replace_key(
    connection: Connection, agent_id: UUID, changes: dict[str, Any], **expected: object
) -> Admission | None:
    """Change an agent's key and revoke its tokens; do nothing and return None unless its columns are as expected."""
    if not await store.update_agent(connection, agent_id, changes | {"next_key_hash": None}, **expected):
        return None
    await revoke_tokens(connection, str(agent_id))
    return await store.find_admission(connection, agent_id)
