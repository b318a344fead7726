"""Slow down clients that fail to log in, by their claimed name and their address, on all nodes together.

A limit by address alone would let one client lock out all others behind the same proxy, so there is none.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import blake2b
from typing import Any

import msgspec
from sqlalchemy import func, select, text, tuple_

from comms_api.addresses import network_of
from comms_api.database.connection import Connection, Engine
from comms_api.database.schema import login_failures, seconds_interval
from comms_api.errors import CommsError, TooManyRequests, Unauthenticated, Unavailable

LONGEST_SECONDS = 900.0
FORGOTTEN_SECONDS = 3600.0
"""After this much silence, no limit needs a failure any more."""

ROWS_MAXIMUM = 100_000

# The charge is the check: each of several simultaneous tries, on any node, sees the row that the one before it wrote.
_CHARGE = text("""
    INSERT INTO login_failures AS known (who, network, failures, failed_at, locked_until)
    VALUES (:who, :network, 1, now(), '-infinity')
    ON CONFLICT (who, network) DO UPDATE SET (failures, failed_at, locked_until) = (
        SELECT counted, now(), CASE WHEN counted > CAST(:allowed AS float8) THEN now() + make_interval(secs =>
            least(CAST(:longest AS float8), CAST(:first AS float8) * 2 ^ least(counted - :allowed - 1, 16)))
            ELSE '-infinity' END
        FROM (SELECT 1 + greatest(0, known.failures
            - greatest(0, extract(epoch FROM now() - known.failed_at)) * CAST(:forgotten_per_second AS float8)
        ) AS counted) AS counting)
    WHERE known.locked_until <= now()
    RETURNING failures""")

_REFUND = text("""
    WITH forgotten AS (DELETE FROM login_failures WHERE who = :who AND network = :network AND failures <= 1)
    UPDATE login_failures SET failures = failures - 1,
        locked_until = CASE WHEN failures - 1 <= CAST(:allowed AS float8) THEN '-infinity' ELSE locked_until END
    WHERE who = :who AND network = :network AND failures > 1""")

_CLEAR = text("DELETE FROM login_failures WHERE who = :who AND network = :network")

_REMAINING = text("""
    SELECT extract(epoch FROM locked_until - now())::float8 FROM login_failures
    WHERE who = :who AND network = :network AND locked_until > now()""")


class Allowance(msgspec.Struct, frozen=True):
    """How many failures are free, and how long further ones lock.

    A lock begins with `first_seconds` and doubles with each failure up to `longest_seconds`. The free failures are
    forgotten in `forgotten_seconds`.
    """

    kind: str
    """The name of the limit; each limit counts separately."""

    failures: int
    first_seconds: float
    longest_seconds: float = LONGEST_SECONDS
    forgotten_seconds: float = LONGEST_SECONDS
    success_clears: bool = True
    """Whether a success clears the failures, or only refunds its own charge."""

    message: str = "Too many failed logins; come back later."


class FailureLimit:
    """Counts failures in the database, by its clock, and locks those who have too many.

    Limits of the same kind on one database share their failures. The table is small and not logged: a crash of
    PostgreSQL forgets the failures, and no failure waits for a disk.
    """

    def __init__(self, engine: Engine, allowance: Allowance) -> None:
        self._engine = engine
        self._allowance = allowance
        self._charging: dict[tuple[str, str], deque[asyncio.Future[None]]] = {}
        """By name and network, while a try is charged: the tries that wait for it."""

        self._parameters: dict[str, object] = {
            "allowed": allowance.failures,
            "first": allowance.first_seconds,
            "longest": allowance.longest_seconds,
            "forgotten_per_second": allowance.failures / allowance.forgotten_seconds,
        }

    @asynccontextmanager
    async def charged(self, who: str, address: str | None = None) -> AsyncIterator[None]:
        """Count a failure before the block evaluates a try, so that simultaneous tries count one by one.

        The block's success clears the failures, if the allowance says so, or gives its own back, as does a block that
        cannot tell (an outage, a full queue). One that ends in `Unauthenticated`, or whose client has left, keeps it.
        Raises `TooManyRequests` while locked.
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
        """Count a failure; raises `TooManyRequests`, with the seconds to wait, while the two are locked.

        Tries of the same two are charged one at a time, since they wait for the same row: together they would take
        every connection of the pool. When one finds a lock, or no database, the waiting ones are refused too.
        """
        key = (who, network_of(address or ""))
        await self._wait_for_turn(key)
        try:
            await self._charge(who, address)
        except Exception as error:
            for turn in self._charging[key]:
                if not turn.done():
                    turn.set_exception(_refusal_like(error))
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

    async def _charge(self, who: str, address: str | None) -> None:
        if not await self._run(_CHARGE, who, address):
            remaining = await self._run(_REMAINING, who, address)
            raise TooManyRequests(self._allowance.message, retry_after_seconds=remaining[0][0] if remaining else 1.0)

    async def refund(self, who: str, address: str | None = None) -> None:
        """Refund one failure for a try that was not evaluated."""
        await self._run(_REFUND, who, address)

    async def clear(self, who: str, address: str | None = None) -> None:
        """Delete the failures of `who` at an address."""
        await self._run(_CLEAR, who, address)

    async def _run(self, statement: Any, who: str, address: str | None) -> list[Any]:
        parameters = self._parameters | {
            "who": _digest(self._allowance.kind, who),
            "network": network_of(address or ""),
        }
        async with self._engine.connect() as connection:
            return await connection.execute(statement, parameters)


async def clear_everywhere(connection: Connection, kind: str, who: str) -> None:
    """Delete the failures of `who` at every address."""
    await connection.execute(login_failures.delete().where(login_failures.c.who == _digest(kind, who)))


async def delete_forgotten(connection: Connection, rows_maximum: int = ROWS_MAXIMUM) -> None:
    """Delete failures that no limit needs, and those beyond the maximum, starting with failures that lock nobody."""
    columns = login_failures.c
    newest_first = (columns.locked_until.desc(), columns.failed_at.desc())
    excess = select(columns.who, columns.network).order_by(*newest_first).offset(rows_maximum)
    is_old = columns.failed_at < func.now() - seconds_interval(FORGOTTEN_SECONDS)
    is_excess = tuple_(columns.who, columns.network).in_(excess)
    await connection.execute(login_failures.delete().where(is_old | is_excess))


def _refusal_like(error: Exception) -> CommsError:
    """Return a separate refusal for each request that waited behind a failed one: each gets its own traceback."""
    if isinstance(error, TooManyRequests):
        return TooManyRequests(error.detail, retry_after_seconds=error.retry_after_seconds)
    return Unavailable("The database did not count a failed login; come back later.")


def _digest(kind: str, who: str) -> bytes:
    """Return the stored digest of a name, which may have any length and characters, or be a mistyped password."""
    return blake2b(f"{kind}:{who}".encode("utf-8", "surrogatepass"), digest_size=16).digest()
