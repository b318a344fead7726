"""The agent's key, and its next key during a rotation.

The spool has the next key before the server does, and keeps the old key until a login with the next one succeeds. So
the agent can log in after a crash at any moment.
"""

import asyncio
import secrets
import string

import msgspec

from comms_api.client.spool.model import Identity
from comms_api.client.spool.thread import SpoolThread

KEY_LENGTH = 32


def new_key() -> str:
    """Make a random key."""
    alphabet = string.ascii_letters + string.digits
    return "".join(secrets.choice(alphabet) for _ in range(KEY_LENGTH))


class Keys:
    """Chooses the key to log in with, first from `identity`, and stores every change in the spool."""

    def __init__(self, identity: Identity, spool: SpoolThread) -> None:
        self._identity = identity
        self._spool = spool
        self._is_next_refused = False
        self._change = asyncio.Lock()
        """Changes wait for one another, since each replaces both keys."""

    def to_try(self) -> str:
        """Return the key to log in with: first the next key, because the server may have it already."""
        return self._identity.key if self._is_next_refused else self._identity.next_key or self._identity.key

    def has_another(self, refused: str) -> bool:
        """Record that the server refuses a key, and return whether there is another one to try."""
        is_next = refused == self._identity.next_key
        self._is_next_refused = self._is_next_refused or is_next
        return is_next

    async def accepted(self, key: str) -> None:
        """Record that the server accepts a key. If it is the next key, the old one is no longer valid."""
        async with self._change:
            if key == self._identity.next_key:
                await self._store(key, "")

    async def propose(self) -> Identity:
        """Make the next key, or reuse that of an interrupted rotation, and return both keys."""
        async with self._change:
            await self._store(self._identity.key, self._identity.next_key or new_key())
            return self._identity

    def submitted(self) -> None:
        """Record that the server has the next key now."""
        self._is_next_refused = False

    async def withdraw(self) -> None:
        """Forget the next key, which the server refused."""
        async with self._change:
            await self._store(self._identity.key, "")

    async def _store(self, key: str, next_key: str) -> None:
        stored = await self._spool.run(self._spool.file.find_identity) or self._identity
        identity = msgspec.structs.replace(stored, key=key, next_key=next_key)
        await self._spool.run(self._spool.file.remember_identity, identity)
        self._identity = identity
