"""UUIDv7 (RFC 9562, section 5.7): ids that sort by their creation time, by the database's clock."""

import os
import time
from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import text

from comms_api.database.connection import Connection

TICKS = 4096
"""Ticks per millisecond: the twelve bits after the millisecond hold its fraction (section 6.2, method 3)."""
STEP_BACK_TICKS = 5_000 * TICKS
"""If the clock is set back by less, ids continue to increase; if by more, the earlier time was wrong."""

_VERSION = 0x7 << 76
_VARIANT = 0x2 << 62
_RANDOM_BITS = 62
_COUNTER = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""A counter that cannot be set and, where the system offers one, continues while the host sleeps."""


class DatabaseClock:
    """PostgreSQL's clock, as this node last read it: the shared clock for ids and tokens on every node.

    Until it is first set, it shows the node's time. Between readings it advances by a counter, so that a step of the
    node's clock has no effect.
    """

    def __init__(self) -> None:
        self._began_at = time.time() - time.clock_gettime(_COUNTER)
        self._last_tick = 0

    def now(self) -> float:
        """Return the time of PostgreSQL, in seconds since 1970."""
        return self._began_at + time.clock_gettime(_COUNTER)

    @property
    def skew_seconds(self) -> float:
        """Return how far the node's clock is ahead of PostgreSQL's."""
        return time.time() - self.now()

    def set(self, now: float) -> None:
        """Set the time, in seconds since 1970."""
        self._began_at = now - time.clock_gettime(_COUNTER)

    async def synchronise(self, connection: Connection) -> None:
        """Read the time from PostgreSQL, assuming that each direction takes half of the round trip."""
        asked_at = time.clock_gettime(_COUNTER)
        answer = await connection.scalar(text("SELECT extract(epoch FROM clock_timestamp())::float8"))
        self.set(float(answer) + (time.clock_gettime(_COUNTER) - asked_at) / 2)

    def uuid7(self) -> UUID:
        """Return a new id that sorts after the earlier ids of this clock."""
        tick = _tick(self.now())
        if tick <= self._last_tick < tick + STEP_BACK_TICKS:
            tick = self._last_tick + 1
        self._last_tick = tick
        return _uuid7(tick)


def uuid7_at(seconds: float) -> UUID:
    """Return a new id with this creation time, in seconds since 1970."""
    return _uuid7(_tick(seconds))


def _tick(seconds: float) -> int:
    return int(seconds * 1000 * TICKS)  # in this order, so that a whole millisecond stays whole


def _uuid7(tick: int) -> UUID:
    milliseconds, fraction = divmod(tick, TICKS)
    random = int.from_bytes(os.urandom(8), "big") >> 64 - _RANDOM_BITS
    return UUID(int=milliseconds << 80 | _VERSION | fraction << 64 | _VARIANT | random)


def uuid7_floor(moment: datetime) -> UUID:
    """Return the lower bound of the ids created at or after `moment`, to the millisecond; a naive time is UTC."""
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return UUID(int=max(0, int(aware.timestamp() * 1000)) << 80)


def uuid7_time(value: UUID) -> datetime:
    """Return the creation time of an id, to the millisecond."""
    return datetime.fromtimestamp((value.int >> 80) / 1000, UTC)


def uuid7_seconds(text: str) -> float:
    """Return the creation time of an id in its usual form, in seconds since 1970."""
    return int(text[:8] + text[9:13], 16) / 1_000
