"""The keys that sign tokens: one key signs, all keys verify, and a rotation ends no session."""

import json
import secrets
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeAlias

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from comms_api.errors import ConfigurationError

Algorithm = Literal["ES256", "EdDSA", "RS256"]

KNOWN_AFTER_SECONDS = 60.0
"""The age from which a key may sign: by then every node has read it."""

RSA_BITS = 3072

PrivateKey: TypeAlias = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey
PublicKey: TypeAlias = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey

_MAKE: Mapping[Algorithm, Callable[[], PrivateKey]] = {
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
    "RS256": lambda: rsa.generate_private_key(65_537, RSA_BITS),
}
_TO_JWK: Mapping[Algorithm, Callable[[Any], Any]] = {
    "ES256": ECAlgorithm.to_jwk,
    "EdDSA": OKPAlgorithm.to_jwk,
    "RS256": RSAAlgorithm.to_jwk,
}


class SigningKey(msgspec.Struct, frozen=True):
    """A private key (PEM, PKCS #8), the id that names it in tokens, and its creation time (seconds since 1970)."""

    kid: str
    algorithm: Algorithm
    private_key: bytes
    created_at: float = 0.0


class Verifier(msgspec.Struct, frozen=True):
    """A public key and the one algorithm that it may verify."""

    algorithm: Algorithm
    key: PublicKey


def new_signing_key(algorithm: Algorithm = "ES256") -> SigningKey:
    """Generate a key."""
    key = _MAKE[algorithm]()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return SigningKey(secrets.token_hex(8), algorithm, pem)


class Keyring:
    """The keys of all nodes, oldest first: the newest key that every node knows signs, and all keys verify."""

    def __init__(self, keys: Iterable[SigningKey], now: float = 0.0) -> None:
        self._private_keys: dict[str, PrivateKey] = {}
        self.replace(list(keys), now)

    def replace(self, keys: list[SigningKey], now: float) -> None:
        """Replace the keys, oldest first; keys that are already loaded are not parsed again."""
        self._private_keys = {key.kid: self._private_keys.get(key.kid) or _load(key) for key in keys}
        known = [key for key in keys if key.created_at <= now - KNOWN_AFTER_SECONDS]
        signer = known[-1] if known else keys[0]
        self.kid, self.algorithm, self.private_key = signer.kid, signer.algorithm, self._private_keys[signer.kid]
        self.verifiers = {key.kid: Verifier(key.algorithm, self._private_keys[key.kid].public_key()) for key in keys}

    def jwks(self) -> dict[str, list[dict[str, str]]]:
        """Return the public keys as a JSON Web Key Set (RFC 7517)."""
        return {"keys": [_jwk(kid, verifier) for kid, verifier in self.verifiers.items()]}


def _jwk(kid: str, verifier: Verifier) -> dict[str, str]:
    members: dict[str, str] = json.loads(_TO_JWK[verifier.algorithm](verifier.key))
    members.pop("key_ops", None)
    return members | {"kid": kid, "alg": verifier.algorithm, "use": "sig"}


def _load(signing_key: SigningKey) -> PrivateKey:
    key = serialization.load_pem_private_key(signing_key.private_key, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey):
        raise ConfigurationError("signing_keys: a stored key is of an unsupported kind")
    return key
