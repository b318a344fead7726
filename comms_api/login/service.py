"""Log agents in, and end what was revoked."""

import asyncio
import logging
from collections.abc import Callable
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from comms_api.agents.presence import Presence
from comms_api.agents.store import find_key_hash
from comms_api.database.failures import log_failure
from comms_api.errors import Forbidden, Invalid, Unauthenticated
from comms_api.login import store
from comms_api.protocol import Credentials
from comms_api.tokens.issuer import AGENTS, Tokens
from comms_api.tokens.keyring import Keyring, Secret, new_signing_key

logger = logging.getLogger(__name__)

REFRESH_SECONDS = 1.0


class Login:
    """The login of agents."""

    def __init__(self, engine: AsyncEngine, secret: Secret, tokens: Tokens, presence: Presence) -> None:
        """Take what a login needs."""
        self._engine = engine
        self._secret = secret
        self._tokens = tokens
        self._presence = presence

    async def log_in(self, credentials: Credentials, remote_address: str | None) -> str:
        """Return a token for the agent API.

        Raises `Unauthenticated` ("Invalid key") or `Forbidden` ("Agent does not exist"): a real agent takes either as
        final, so neither is ever said while the database cannot be asked.
        """
        agent_id = _agent_id(credentials.uuid)
        async with self._engine.connect() as connection:
            key_hash = await find_key_hash(connection, agent_id)
        if key_hash is None:
            raise Forbidden("Agent does not exist")
        if not self._secret.key_matches(credentials.key, key_hash):
            raise Unauthenticated("Invalid key")
        self._presence.saw(agent_id, remote_address, logged_in=True)
        return self._tokens.issue(str(agent_id), AGENTS)


def _agent_id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise Invalid("uuid: must be a UUID") from None


class Revocations:
    """Keeps this node's tokens in step with the revocations in the database, within about a second."""

    def __init__(
        self, engine: AsyncEngine, tokens: Tokens, lifetime_seconds: int, on_change: Callable[[], None]
    ) -> None:
        """Take whom to tell when a revocation has arrived, so that held polls end as well."""
        self._engine = engine
        self._tokens = tokens
        self._lifetime_seconds = lifetime_seconds
        self._on_change = on_change
        self._known: dict[str, float] = {}
        self._wanted = asyncio.Event()

    def refresh_soon(self) -> None:
        """Ask for a look at the table now."""
        self._wanted.set()

    async def run(self) -> None:
        """Look on demand and each second, until cancelled."""
        while True:
            try:
                async with asyncio.timeout(REFRESH_SECONDS):
                    await self._wanted.wait()
            except TimeoutError:
                pass
            self._wanted.clear()
            try:
                await self.refresh()
            except Exception as error:  # noqa: BLE001 - it must go on looking
                log_failure(logger, "revocations not read", error)

    async def refresh(self) -> None:
        """Read the table and apply what is new."""
        async with self._engine.connect() as connection:
            revoked_at = await store.list_revocations(connection, self._lifetime_seconds)
        if revoked_at != self._known:
            self._known = revoked_at
            self._tokens.revoke(revoked_at)
            self._on_change()


async def load_keyring(connection: AsyncConnection, secret: Secret) -> Keyring:
    """Return the keys of all nodes, making the first; the caller holds the lock that lets one node at a time do it."""
    keys = await store.list_signing_keys(connection, secret)
    if not keys:
        keys = [new_signing_key()]
        await store.insert_signing_key(connection, secret, keys[0])
    return Keyring(keys)
