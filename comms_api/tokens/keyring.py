"""The keys that sign tokens, and the node secret that protects them and the agents' keys.

The secret is the one thing kept outside the database: whoever steals the database alone can neither sign a token nor
try agent keys against their hashes.
"""

import base64
import hmac
import secrets
from collections.abc import Iterable

import msgspec
from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from comms_api.errors import ConfigurationError

ALGORITHM = "ES256"
SECRET_BYTES_MINIMUM = 32


class Secret:
    """The node secret and what is derived from it (RFC 5869's idea: one secret, one derived key per purpose)."""

    def __init__(self, value: bytes) -> None:
        """Refuse a secret that could be guessed."""
        if len(value) < SECRET_BYTES_MINIMUM:
            raise ConfigurationError(f"secret_file: holds fewer than {SECRET_BYTES_MINIMUM} bytes")
        self._pepper = self._derive(value, b"agent keys")
        self._box = Fernet(base64.urlsafe_b64encode(self._derive(value, b"signing keys")))

    @staticmethod
    def _derive(value: bytes, purpose: bytes) -> bytes:
        return hmac.digest(value, b"comms-api: " + purpose, "sha256")

    def hash_key(self, key: str) -> bytes:
        """Return the keyed hash an agent's key is stored as: fast, since such a key is random and long."""
        return hmac.digest(self._pepper, key.encode(), "sha256")

    def key_matches(self, key: str, stored: bytes) -> bool:
        """Compare in constant time."""
        return hmac.compare_digest(self.hash_key(key), stored)

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


class SigningKey(msgspec.Struct, frozen=True):
    """One private key (PEM, PKCS #8) and the id that tokens name it by."""

    kid: str
    private_key: bytes


def new_signing_key() -> SigningKey:
    """Make a P-256 key."""
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return SigningKey(kid=secrets.token_hex(8), private_key=pem)


class Keyring:
    """The keys of all nodes: the newest signs, every one verifies."""

    def __init__(self, keys: Iterable[SigningKey]) -> None:
        """Take the keys, the newest last."""
        loaded = {key.kid: _load(key.private_key) for key in keys}
        self.kid, self.private_key = list(loaded.items())[-1]
        self.public_keys = {kid: key.public_key() for kid, key in loaded.items()}


def _load(pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pem, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigurationError("signing_keys: not an elliptic curve key")
    return key
