"""The signing keys of all nodes: create them, rotate them on a schedule, and delete keys that no token needs.

A new key starts to sign after a minute, when every node has read it and can verify its tokens. The previous key
verifies until the last token that it signed has expired. Therefore a rotation ends no session.
"""

from itertools import pairwise

from sqlalchemy import text

from comms_api.database.connection import Connection, Engine
from comms_api.duties.repeating import Duty
from comms_api.login import store
from comms_api.settings import Settings
from comms_api.tokens.issuer import AGENTS, LEEWAY_SECONDS
from comms_api.tokens.keyring import KNOWN_AFTER_SECONDS, Keyring, SigningKey, new_signing_key
from comms_api.tokens.secret import Secret

KEYS_LOCK = 0x6B657973
DAY_SECONDS = 86_400.0
REFRESH_SECONDS = 15.0


class SigningKeys:
    """Rotates the keys in the database and keeps a keyring up to date with them."""

    def __init__(self, engine: Engine, secret: Secret, settings: Settings) -> None:
        self._engine = engine
        self._secret = secret
        self._algorithm = settings.token_algorithm
        self._age_seconds = settings.signing_key_days * DAY_SECONDS
        self._overlap_seconds = KNOWN_AFTER_SECONDS + 2 * settings.token_lifetime_seconds + LEEWAY_SECONDS[AGENTS]

    def duties(self, keyring: Keyring) -> list[Duty]:
        """Return the duty that refreshes the keys."""
        return [Duty("signing keys", lambda: self.refresh(keyring), REFRESH_SECONDS)]

    async def refresh(self, keyring: Keyring) -> None:
        """Rotate due keys and update the keyring; any node may do this at any time."""
        async with self._engine.begin() as connection:
            await connection.take_turns(KEYS_LOCK)
            keys, now = await self._rotate(connection, self._age_seconds)
        keyring.replace(keys, now)

    async def load(self, connection: Connection) -> Keyring:
        """Return the keys, creating the first if necessary, and encrypt each again with the current secret."""
        await connection.take_turns(KEYS_LOCK)
        newest = (await store.list_signing_keys(connection, self._secret))[-1:]
        # Only a start changes the algorithm: otherwise, nodes that disagree would keep replacing each other's keys.
        is_other = any(key.algorithm != self._algorithm for key in newest)
        keys, now = await self._rotate(connection, 0.0 if is_other else self._age_seconds)
        for key in keys:
            await store.reseal_signing_key(connection, self._secret, key)
        return Keyring(keys, now)

    async def _rotate(self, connection: Connection, age_seconds: float) -> tuple[list[SigningKey], float]:
        now = float(await connection.scalar(text("SELECT extract(epoch FROM now())::float8")))
        keys = await store.list_signing_keys(connection, self._secret)
        if not keys or keys[-1].created_at < now - age_seconds:
            await store.insert_signing_key(connection, self._secret, new_signing_key(self._algorithm))
            keys = await store.list_signing_keys(connection, self._secret)
        # A key has expired once its successor has signed for longer than a token's lifetime.
        expired = {key.kid for key, following in pairwise(keys) if following.created_at < now - self._overlap_seconds}
        if expired:
            await store.delete_signing_keys(connection, expired)
        return [key for key in keys if key.kid not in expired], now
