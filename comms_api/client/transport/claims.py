"""Read the claims of a token. Only the server can verify them."""

import base64
import binascii
import time

import msgspec

UNREADABLE_TOKEN_SECONDS = 60.0


class Claims(msgspec.Struct, frozen=True):
    """The claims that the agent reads."""

    exp: float
    iat: float | None = None
    uuid: str = ""


def token_lifetime_seconds(token: str) -> float:
    """Return how long a new token is valid; a minute if it cannot be read.

    The issuer's `iat` is preferred to this host's clock, whose error may exceed a token's lifetime.
    """
    claims = read_claims(token)
    if claims is None:
        return UNREADABLE_TOKEN_SECONDS
    return claims.exp - (time.time() if claims.iat is None else claims.iat)


def read_claims(token: str) -> Claims | None:
    """Return the claims of a token, or None if they cannot be read."""
    try:
        part = token.split(".")[1]
        return msgspec.json.decode(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)), type=Claims)
    except (IndexError, binascii.Error, msgspec.DecodeError, UnicodeDecodeError):
        return None
