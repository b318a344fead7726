"""Announce revocations to every node, and apply them to this node's tokens within about a second."""

import asyncio
import time
from collections.abc import Callable, Mapping
from functools import partial

from comms_api.database.connection import Engine
from comms_api.database.housekeeping import HOUSEKEEPING_SECONDS, transaction_duty
from comms_api.database.listener import Notifier
from comms_api.duties.repeating import Duty
from comms_api.meters import Histogram
from comms_api.revocations.store import delete_revocations, find_state, list_revocations, revoke_tokens
from comms_api.tokens.issuer import Tokens

REVOCATIONS_CHANNEL = "comms_api_revocations"
REFRESH_SECONDS = 1.0


class Revocations:
    """Tells every node of revocations.

    A change of rights revokes tokens in its own transaction, by `revoke_tokens`. A login may read the rights before
    that transaction commits and issue a token after it, so such a change revokes again after its commit.
    """

    def __init__(self, engine: Engine, notifier: Notifier) -> None:
        self._engine = engine
        self._notifier = notifier

    async def revoke_again(self, *subjects: str) -> None:
        """Revoke the tokens of subjects in a separate transaction, and announce this."""
        if not subjects:
            return
        async with self._engine.begin() as connection:
            await revoke_tokens(connection, *subjects)
        self.announce()

    def announce(self) -> None:
        """Have every node read the revocations that have been committed."""
        self._notifier.notify(REVOCATIONS_CHANNEL)


class RevocationReader:
    """Keeps this node's tokens in step with the revocations in the database.

    `on_change` is called when a revocation has arrived, so that held polls end as well.
    """

    def __init__(self, engine: Engine, tokens: Tokens, on_change: Callable[[], None]) -> None:
        self._engine = engine
        self._tokens = tokens
        self._on_change = on_change
        self._known: dict[str, float] | None = None
        self._state: tuple[int, int] | None = None
        self._is_announced = asyncio.Event()
        self._read_at = time.monotonic()
        self.lag_seconds = Histogram()
        """The time from each revocation until this process applied it."""

    @property
    def age_seconds(self) -> float:
        """The time since the revocations were read."""
        return time.monotonic() - self._read_at

    def refresh_soon(self) -> None:
        """Read the revocations without waiting for the second to end."""
        self._is_announced.set()

    def duties(self) -> list[Duty]:
        """Return the duties that read the revocations each second and on demand, and delete old ones."""
        delete_old = partial(delete_revocations, seconds=2 * self._tokens.revocations_seconds)
        return [
            Duty("revocations", self.refresh, REFRESH_SECONDS, self._is_announced),
            transaction_duty("revocations clean-up", self._engine, HOUSEKEEPING_SECONDS, delete_old),
        ]

    async def refresh(self) -> None:
        """Read the revocations, and apply them if they have changed."""
        begun_at = time.monotonic()
        async with self._engine.connect() as connection:
            state = await find_state(connection)
            if state == self._state:
                self._read_at = begun_at
                return
            revoked_at = await list_revocations(connection, self._tokens.revocations_seconds)
        self._state, self._read_at = state, begun_at
        if revoked_at != self._known:
            if self._known is not None:  # the first revocations are older than this process
                self._measure(self._known, revoked_at)
            self._known = revoked_at
            self._tokens.revoke(revoked_at)
            self._on_change()

    def _measure(self, known: Mapping[str, float], revoked_at: Mapping[str, float]) -> None:
        now = self._tokens.now()
        for subject, moment in revoked_at.items():
            if known.get(subject) != moment:
                self.lag_seconds.observe(max(0.0, now - moment))
