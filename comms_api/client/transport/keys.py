"""The agent's key, and its next key during a rotation.

The next key is on the disk before it is sent, and the old one until a login with the next: whatever crashes in between,
a key that the server takes is known here.
"""

import secrets
import string

import msgspec

from comms_api.client.spool.model import Identity
from comms_api.client.spool.spool import Spool

KEY_LENGTH = 32


def new_key() -> str:
    """Make a random key."""
    alphabet = string.ascii_letters + string.digits
    return "".join(secrets.choice(alphabet) for _ in range(KEY_LENGTH))


class Keys:
    """Knows which key to log in with."""

    def __init__(self, identity: Identity, spool: Spool) -> None:
        """Begin with the keys of `identity`; changes go to the identity in the spool."""
        self._identity = identity
        self._spool = spool
        self._is_next_refused = False

    def to_try(self) -> str:
        """Return the key to log in with: the next one first, since the server may have it already."""
        return self._identity.key if self._is_next_refused else self._identity.next_key or self._identity.key

    def has_another(self, refused: str) -> bool:
        """Note that the server refuses a key, and return whether there is another one to try."""
        is_next = refused == self._identity.next_key
        self._is_next_refused = self._is_next_refused or is_next
        return is_next

    def accepted(self, key: str) -> None:
        """Note that the server accepts a key: if it is the next one, the old one is no longer valid."""
        if key == self._identity.next_key:
            self._set(key, "")

    def propose(self) -> Identity:
        """Make the next key, or reuse the one of an interrupted rotation, and return both keys."""
        self._set(self._identity.key, self._identity.next_key or new_key())
        return self._identity

    def submitted(self) -> None:
        """Note that the server has the next key now."""
        self._is_next_refused = False

    def withdraw(self) -> None:
        """Forget the next key, which the server refused."""
        self._set(self._identity.key, "")

    def _set(self, key: str, next_key: str) -> None:
        stored = self._spool.find_identity() or self._identity
        self._identity = msgspec.structs.replace(stored, key=key, next_key=next_key)
        self._spool.remember("identity", self._identity)
