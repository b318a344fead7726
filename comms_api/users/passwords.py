"""Hash and check people's passwords, slowly, off the event loop, a few at a time."""

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from comms_api.fairness.executors import BoundedExecutor

HASH_THREADS = 2
HASHES_MAXIMUM = 256
"""The maximum number of strangers' passwords that a process hashes or queues; further logins get 503.

A hash takes 25 ms.
"""

KNOWN_HASHES_MAXIMUM = 64
"""The same for users who are logged in or send a device token: strangers cannot fill their queue."""


class Passwords:
    """argon2id (RFC 9106) at the OWASP cost: 19 MiB, two passes."""

    def __init__(self) -> None:
        self._hasher = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)
        self._nobody = self._hasher.hash("nobody has this password")
        """Checked for unknown users, so that their logins take as long as other logins."""

        self._strangers = BoundedExecutor("passwords", HASH_THREADS, HASHES_MAXIMUM)
        self._known = BoundedExecutor("passwords of known users", HASH_THREADS, KNOWN_HASHES_MAXIMUM)

    def hash(self, password: str) -> str:
        """Return the hash to store."""
        return self._hasher.hash(password)

    async def hash_aside(self, client: str, password: str) -> str:
        """Return the hash to store, without blocking the event loop."""
        return await self._known.run(client, lambda: self.hash(password))

    async def matches(self, client: str, password: str, stored: str | None, *, is_known: bool) -> bool:
        """Return whether `password` matches the hash; for None this returns False after the same time."""
        hashes = self._known if is_known else self._strangers
        return await hashes.run(client, lambda: self._verify(password, stored))

    def _verify(self, password: str, stored: str | None) -> bool:
        try:
            self._hasher.verify(stored or self._nobody, password)
        except (VerificationError, InvalidHashError):
            return False
        return stored is not None
