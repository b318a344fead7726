"""Limit failed logins by the claimed name and the network of the client, on all nodes together.

A limit of logins by address alone would let one client lock out all others behind the same proxy, so there is none.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager

from comms_api.addresses import network_of
from comms_api.database.connection import Engine
from comms_api.errors import CommsError, TooManyRequests, Unauthenticated, Unavailable
from comms_api.fairness.recent import Recent
from comms_api.fairness.rounds import over_rounds
from comms_api.lockouts import store
from comms_api.lockouts.model import Allowance

REFUSED_AT_ONCE = 8
"""The number of waiting tries that are refused in a round of the event loop: more would be one long round."""

REMEMBERED_SECONDS = 1.0
"""A node refuses for this long without asking the database; then another node may have cleared the failures."""


class FailureLimit:
    """Counts failures in the database, by its clock, and locks clients with too many.

    Limits of the same kind on one database share their failures. The table is small and not logged: a crash of
    PostgreSQL forgets the failures, and no failure waits for a disk. A node remembers a lock for a second, so that
    further tries cost it no statement.
    """

    def __init__(self, engine: Engine, allowance: Allowance) -> None:
        self._engine = engine
        self._allowance = allowance
        self._charging: dict[tuple[str, str], deque[asyncio.Future[None]]] = {}
        """While a try is charged: the waiting tries, by name and network."""

        self._locked_until = Recent[tuple[str, str], float](REMEMBERED_SECONDS)
        """By name and network: the end of a lock, by the monotonic clock."""

    @asynccontextmanager
    async def charged(self, who: str, address: str | None = None) -> AsyncIterator[None]:
        """Count a failure before the block evaluates a try, so that simultaneous tries count one by one.

        If the block succeeds, the failures are cleared or, if the allowance says so, only this one is refunded. If it
        cannot decide (an outage, a full queue), this one is refunded. If it raises `Unauthenticated` or is cancelled,
        this one stays. Raises `TooManyRequests` while locked.
        """
        await self.charge(who, address)
        try:
            yield
        except Unauthenticated:
            raise
        except Exception:
            await self.refund(who, address)
            raise
        await (self.clear if self._allowance.success_clears else self.refund)(who, address)

    async def charge(self, who: str, address: str | None = None) -> None:
        """Count a failure; raises `TooManyRequests`, with the seconds to wait, while `who` is locked at this address.

        Tries of one name and network are charged one at a time: they need the same row, and together would take every
        connection of the pool. When one is locked out, or the database fails, the waiting ones are refused as well.
        """
        self.check_remembered(who, address)
        key = (who, network_of(address or ""))
        await self._wait_for_turn(key)
        try:
            await self._charge(*key)
        except Exception as error:
            refused, self._charging[key] = self._charging[key], deque()
            over_rounds(_refuse_each(refused, error), REFUSED_AT_ONCE)
            raise
        finally:
            self._end_turn(key)

    async def _wait_for_turn(self, key: tuple[str, str]) -> None:
        waiting = self._charging.get(key)
        if waiting is None:
            self._charging[key] = deque()
            return
        turn = asyncio.get_running_loop().create_future()
        waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled() and turn.done() and turn.exception() is None:
                self._end_turn(key)  # its turn came at the same moment
            raise

    def _end_turn(self, key: tuple[str, str]) -> None:
        waiting = self._charging[key]
        while waiting:
            turn = waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        del self._charging[key]

    async def _charge(self, who: str, network: str) -> None:
        async with self._engine.connect() as connection:
            if await store.charge(connection, self._allowance, who, network):
                return
            lock_seconds = await store.find_lock_seconds(connection, self._allowance, who, network)
        raise self._refusal((who, network), REMEMBERED_SECONDS if lock_seconds is None else lock_seconds)

    async def check(self, who: str, address: str | None = None) -> None:
        """Raise `TooManyRequests` while `who` is locked at this address, and count nothing."""
        self.check_remembered(who, address)
        key = (who, network_of(address or ""))
        async with self._engine.connect() as connection:
            lock_seconds = await store.find_lock_seconds(connection, self._allowance, *key)
        if lock_seconds is not None:
            raise self._refusal(key, lock_seconds)

    def check_remembered(self, who: str, address: str | None = None) -> None:
        """Raise `TooManyRequests` if this node remembers that `who` is locked at this address."""
        key = (who, network_of(address or ""))
        seconds = (self._locked_until.find(key) or 0.0) - time.monotonic()
        if seconds > 0:
            raise TooManyRequests(self._allowance.message, retry_after_seconds=seconds)

    def _refusal(self, key: tuple[str, str], lock_seconds: float) -> TooManyRequests:
        self._locked_until.remember(key, time.monotonic() + lock_seconds)
        return TooManyRequests(self._allowance.message, retry_after_seconds=lock_seconds)

    async def refund(self, who: str, address: str | None = None) -> None:
        """Refund one failure for a try that was not evaluated."""
        self._locked_until.forget((who, network_of(address or "")))
        async with self._engine.connect() as connection:
            await store.refund(connection, self._allowance, who, network_of(address or ""))

    async def clear(self, who: str, address: str | None = None) -> None:
        """Delete the failures of `who` at an address."""
        self._locked_until.forget((who, network_of(address or "")))
        async with self._engine.connect() as connection:
            await store.clear(connection, self._allowance, who, network_of(address or ""))


def _refuse_each(turns: Iterable["asyncio.Future[None]"], error: Exception) -> Iterator[None]:
    for turn in turns:
        if not turn.done():
            turn.set_exception(_refusal_like(error))
        yield


def _refusal_like(error: Exception) -> CommsError:
    """Return a separate refusal for each request that waited behind a failed one: each gets its own traceback."""
    if isinstance(error, TooManyRequests):
        return TooManyRequests(error.detail, retry_after_seconds=error.retry_after_seconds)
    return Unavailable("The database did not count a failed login; try again later.")
