"""Issue and verify tokens (JWT, RFC 7519), and refuse revoked ones."""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import jwt
import msgspec
from jwt.types import Options

from comms_api.errors import Unauthenticated
from comms_api.tokens.keyring import Keyring

Audience = Literal["comms-api:agents", "comms-api:management"]
AGENTS: Audience = "comms-api:agents"
MANAGEMENT: Audience = "comms-api:management"

Role = Literal["administrator", "operator", "reader", "service"]
"""A user's permissions; each route of the management API declares the roles that it admits."""

ISSUER = "comms-api"
LEEWAY_SECONDS: Mapping[Audience, float] = {AGENTS: 5.0, MANAGEMENT: 0.0}
"""A token is accepted for this long after `exp`. Agents renew by their own clocks, shortly before `exp`."""

FUTURE_SECONDS = 60
"""`iat` may be this far in the future: nodes' clocks differ by less. A later token would outlive its revocation."""

CACHE_SIZE = 100_000
# `exp` and `iat` are checked by the database's clock, not the node's, in `verify`.
_OPTIONS: Options = {"require": ["exp", "iat", "sub", "aud", "iss"], "verify_exp": False, "verify_iat": False}


class Claims(msgspec.Struct, frozen=True):
    """The claims of a verified token; times are in seconds since 1970."""

    subject: str
    audience: str
    issued_at: float
    expires_at: float
    role: str = ""
    """The user's role; empty for agents."""

    networks: tuple[str, ...] = ()
    """The source addresses (CIDR) that may use the token; if empty, any address."""


class Tokens:
    """Issues tokens, verifies them, and refuses revoked ones. `now` is the clock that all nodes share.

    Verified tokens are cached, so that verifying one again costs a dictionary lookup. The cache is bounded and drops
    the oldest token. It keeps one token per agent, since an agent that logs in again no longer sends its earlier token.
    """

    def __init__(self, keyring: Keyring, lifetime_seconds: int, now: Callable[[], float]) -> None:
        self.keyring = keyring
        self.lifetime_seconds = lifetime_seconds
        self.revocations_seconds = lifetime_seconds + max(LEEWAY_SECONDS.values()) + FUTURE_SECONDS
        """A revocation is kept for this long: by then, every token that it revokes has expired."""
        self.now = now
        self._verified: OrderedDict[str, Claims] = OrderedDict()
        self._newest: dict[str, str] = {}
        self._revoked: dict[str, float] = {}

    def issue(
        self,
        subject: str,
        audience: Audience,
        role: str = "",
        networks: Sequence[str] = (),
        issued_at: float | None = None,
    ) -> str:
        """Return a token for `subject`, valid only from its networks.

        `iat` has a fraction, so that a revocation can distinguish two tokens of the same second. It is a time before
        the permissions were read, so that a revocation since then revokes this token as well.
        """
        issued_at = issued_at or self.now()
        claims = (
            {
                "iss": ISSUER,
                "aud": audience,
                "sub": subject,
                "uuid": subject,
                "iat": issued_at,
                "exp": int(issued_at) + self.lifetime_seconds,
            }
            | ({"role": role} if role else {})
            | ({"networks": list(networks)} if networks else {})
        )
        keyring = self.keyring
        return jwt.encode(claims, keyring.private_key, keyring.algorithm, headers={"kid": keyring.kid})

    def verify(self, token: str, audience: Audience) -> Claims:
        """Return the claims of `token`; raises `Unauthenticated` if it is invalid, expired or revoked."""
        claims = self._verified.get(token) or self._remember(token, self._decode(token, audience))
        if claims.audience != audience:
            raise Unauthenticated("The token is for another API.")
        if claims.expires_at + LEEWAY_SECONDS[audience] <= self.now():
            self._forget(token)
            raise Unauthenticated("The token has expired.", code=2707)
        if claims.issued_at <= self._revoked.get(claims.subject, 0.0):
            raise Unauthenticated("The token was revoked.")
        return claims

    def revoke(self, revoked_at: dict[str, float]) -> None:
        """Refuse each subject's tokens that were issued up to this time; replaces the previous revocations."""
        self._revoked = revoked_at

    def is_revoked(self, claims: Claims) -> bool:
        """Return whether a token has been revoked since it was verified."""
        return claims.issued_at <= self._revoked.get(claims.subject, 0.0)

    def _remember(self, token: str, claims: Claims) -> Claims:
        if claims.audience == AGENTS:
            self._forget(self._newest.get(claims.subject, ""))
            self._newest[claims.subject] = token
        self._verified[token] = claims
        if len(self._verified) > CACHE_SIZE:
            self._forget(next(iter(self._verified)))
        return claims

    def _forget(self, token: str) -> None:
        claims = self._verified.pop(token, None)
        if claims is not None and self._newest.get(claims.subject) == token:
            del self._newest[claims.subject]

    def _decode(self, token: str, audience: Audience) -> Claims:
        try:
            verifier = self.keyring.verifiers[jwt.get_unverified_header(token)["kid"]]
            claims = jwt.decode(
                token, verifier.key, [verifier.algorithm], audience=audience, issuer=ISSUER, options=_OPTIONS
            )
        except (jwt.InvalidTokenError, KeyError, TypeError, UnicodeError):
            raise Unauthenticated("The token is not valid.") from None
        if float(claims["iat"]) > self.now() + FUTURE_SECONDS:
            raise Unauthenticated("The token is from the future: the clock of the node that issued it is wrong.")
        issued_at = float(claims["iat"])
        return Claims(
            subject=claims["sub"],
            audience=claims["aud"],
            issued_at=issued_at,
            # Tokens of a node with a longer lifetime must not outlive the revocations that this node keeps.
            expires_at=min(float(claims["exp"]), issued_at + self.lifetime_seconds),
            role=claims.get("role", ""),
            networks=tuple(claims.get("networks", ())),
        )
