"""The node secret: it protects agent keys and signing keys, and is the only secret kept outside the database.

A thief of the database alone can neither sign a token nor test guesses of agent keys against their hashes.
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
FINGERPRINT_DIGITS = 16
_SLOW = b"$argon2"


class Secret:
    """The node secret and the keys derived from it, one per purpose (the idea of RFC 5869).

    While a secret is being replaced, the previous one still decrypts and verifies, but no longer encrypts.
    Raises `ConfigurationError` for a secret that could be guessed.
    """

    def __init__(self, value: bytes, previous: bytes | None = None) -> None:
        values = [value] if previous is None else [value, previous]
        if min(map(len, values)) < SECRET_BYTES_MINIMUM:
            raise ConfigurationError(f"secret_file: must hold at least {SECRET_BYTES_MINIMUM} bytes")
        self.fingerprint = _derive(value, b"fingerprint").hex()[:FINGERPRINT_DIGITS]
        """Identifies the current secret, which is too long and random to be guessed from this hash."""

        self._peppers = [_derive(value, b"agent keys") for value in values]
        boxes = [Fernet(base64.urlsafe_b64encode(_derive(value, b"signing keys"))) for value in values]
        self._box = MultiFernet(boxes)
        self._slow = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)

    def hash_key(self, key: str) -> bytes:
        """Return the keyed hash to store for an agent's key; a fast one is enough, since the key is random and long."""
        return hmac.digest(self._peppers[0], key.encode(), "sha256")

    def hash_weak_key(self, key: str) -> bytes:
        """Return a slow keyed hash for a key that could be guessed; this takes some tens of milliseconds."""
        return self._slow.hash(self.hash_key(key)).encode()

    def is_slow(self, stored: bytes) -> bool:
        """Return whether a stored hash is too slow to compare on the event loop."""
        return stored.startswith(_SLOW)

    def key_matches(self, key: str, stored: bytes) -> bool:
        """Return whether a key matches its hash under the current or the previous secret, in constant time."""
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
        """Encrypt `value`; only this secret can decrypt it."""
        return self._box.encrypt(value)

    def decrypt(self, value: bytes) -> bytes:
        """Decrypt a value; raises `ConfigurationError` if another secret encrypted it."""
        try:
            return self._box.decrypt(value)
        except InvalidToken:
            raise ConfigurationError(
                "secret_file: this is not the secret that this database was set up with; copy the first node's file"
            ) from None


def _derive(value: bytes, purpose: bytes) -> bytes:
    return hmac.digest(value, b"comms-api: " + purpose, "sha256")


def token_digest(token: str) -> bytes:
    """Return the hash to store for a random token; a plain hash is enough, since the token cannot be guessed."""
    return hashlib.sha256(token.encode()).digest()


def entropy_bits(key: str) -> float:
    """Return the Shannon entropy of a key's characters: an upper bound of the effort to guess it."""
    counts = Counter(key).values()
    return -sum(count * math.log2(count / len(key)) for count in counts)
