"""The signing keys of all nodes: made, replaced on a schedule, read by every node, forgotten when nothing needs them.

A new key is first only read, so that every node can verify by it, and signs after a minute. The one before it verifies
until the last token that it signed is over. So nobody is logged out by a rotation.
"""

from itertools import pairwise

from sqlalchemy import text

from comms_api.database.connection import Connection, Engine
from comms_api.login import store
from comms_api.settings import Settings
from comms_api.tokens.issuer import AGENTS, LEEWAY_SECONDS
from comms_api.tokens.keyring import KNOWN_AFTER_SECONDS, Keyring, SigningKey, new_signing_key
from comms_api.tokens.secret import Secret

KEYS_LOCK = 0x6B657973
DAY_SECONDS = 86_400.0


class SigningKeys:
    """Keeps a keyring in step with the database, and the database's keys fresh."""

    def __init__(self, engine: Engine, secret: Secret, settings: Settings) -> None:
        self._engine = engine
        self._secret = secret
        self._algorithm = settings.token_algorithm
        self._age_seconds = settings.signing_key_days * DAY_SECONDS
        self._overlap_seconds = KNOWN_AFTER_SECONDS + 2 * settings.token_lifetime_seconds + LEEWAY_SECONDS[AGENTS]

    async def refresh(self, keyring: Keyring) -> None:
        """Rotate what is due and bring the keyring up to date; any node may do this at any time."""
        async with self._engine.begin() as connection:
            await connection.take_turns(KEYS_LOCK)
            keys, now = await self._rotate(connection, self._age_seconds)
        keyring.replace(keys, now)

    async def load(self, connection: Connection) -> Keyring:
        """Return the keys, making the first if there is none, and closing each anew with the secret of now."""
        await connection.take_turns(KEYS_LOCK)
        newest = (await store.list_signing_keys(connection, self._secret))[-1:]
        # Another algorithm is taken up at the start alone: nodes that disagree would go on replacing each other's keys.
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
        # A key is over once its successor has signed for longer than a token lives.
        over = {key.kid for key, following in pairwise(keys) if following.created_at < now - self._overlap_seconds}
        if over:
            await store.delete_signing_keys(connection, over)
        return [key for key in keys if key.kid not in over], now
