"""The node secret: what protects agent keys and signing keys, and the one thing kept outside the database.

Whoever steals the database alone can neither sign a token nor try agent keys against their hashes.
"""

import base64
import hashlib
import hmac
import math
from collections import Counter

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from comms_api.errors import ConfigurationError

SECRET_BYTES_MINIMUM = 32
_SLOW = b"$argon2"


class Secret:
    """The node secret and what is derived from it (RFC 5869's idea: one secret, one derived key per purpose).

    While a secret is being replaced, the one before it still opens what it closed, and closes nothing any more.
    Raises `ConfigurationError` for a secret that could be guessed.
    """

    def __init__(self, value: bytes, previous: bytes | None = None) -> None:
        values = [value] if previous is None else [value, previous]
        if min(map(len, values)) < SECRET_BYTES_MINIMUM:
            raise ConfigurationError(f"secret_file: holds fewer than {SECRET_BYTES_MINIMUM} bytes")
        self._peppers = [_derive(value, b"agent keys") for value in values]
        boxes = [Fernet(base64.urlsafe_b64encode(_derive(value, b"signing keys"))) for value in values]
        self._box = MultiFernet(boxes)
        self._slow = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)

    def hash_key(self, key: str) -> bytes:
        """Return the keyed hash an agent's key is stored as: fast, since such a key is random and long."""
        return hmac.digest(self._peppers[0], key.encode(), "sha256")

    def hash_weak_key(self, key: str) -> bytes:
        """Return a hash for a key that could be guessed: slow, some tens of milliseconds, and keyed as well."""
        return self._slow.hash(self.hash_key(key)).encode()

    def is_slow(self, stored: bytes) -> bool:
        """Return whether a stored hash takes long to compare, so that it is not done on the event loop."""
        return stored.startswith(_SLOW)

    def key_matches(self, key: str, stored: bytes) -> bool:
        """Compare in constant time with what any secret has made of the key."""
        hashes = [hmac.digest(pepper, key.encode(), "sha256") for pepper in self._peppers]
        if self.is_slow(stored):
            return any([self._slow_matches(hashed, stored) for hashed in hashes])  # noqa: C419 - every one, always
        return any([hmac.compare_digest(hashed, stored) for hashed in hashes])  # noqa: C419 - every one, always

    def is_outdated(self, key: str, stored: bytes) -> bool:
        """Return whether a key that matches was hashed with the previous secret."""
        return not self.is_slow(stored) and not hmac.compare_digest(self.hash_key(key), stored)

    def _slow_matches(self, hashed: bytes, stored: bytes) -> bool:
        try:
            return self._slow.verify(stored.decode(), hashed)
        except (VerificationError, InvalidHashError, UnicodeDecodeError):
            return False

    def is_same_text(self, one: str, other: str) -> bool:
        """Compare two keys in constant time."""
        return hmac.compare_digest(one.encode(), other.encode())

    def encrypt(self, value: bytes) -> bytes:
        """Return `value` so that only this secret opens it."""
        return self._box.encrypt(value)

    def decrypt(self, value: bytes) -> bytes:
        """Open what `encrypt` closed; raises `ConfigurationError` when another secret closed it."""
        try:
            return self._box.decrypt(value)
        except InvalidToken:
            raise ConfigurationError(
                "secret_file: it is not the secret this database was set up with; copy the first node's file"
            ) from None


def _derive(value: bytes, purpose: bytes) -> bytes:
    return hmac.digest(value, b"comms-api: " + purpose, "sha256")


def token_digest(token: str) -> bytes:
    """Return what a random token is stored as: it cannot be guessed, so a plain hash will do."""
    return hashlib.sha256(token.encode()).digest()


def entropy_bits(key: str) -> float:
    """Return Shannon's measure of a key by its own characters: an upper bound of what guessing it takes."""
    counts = Counter(key).values()
    return -sum(count * math.log2(count / len(key)) for count in counts)
