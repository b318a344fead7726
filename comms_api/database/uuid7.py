"""UUIDv7 (RFC 9562, section 5.7): ids that sort by the millisecond they were made in, by the database's clock."""

import os
import time
from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

_VERSION = 0x7 << 76
_VARIANT = 0x2 << 62
_RANDOM_MASK = (1 << 76) - 1 & ~(0x3 << 62) & ~(0xF << 76)


class DatabaseClock:
    """PostgreSQL's clock, as this node last saw it: the one clock for ids and tokens on every node."""

    def __init__(self) -> None:
        """Start with the node's own clock."""
        self.offset_seconds = 0.0

    def now(self) -> float:
        """Return seconds since 1970, as PostgreSQL counts them."""
        return time.time() + self.offset_seconds

    async def synchronise(self, connection: AsyncConnection) -> None:
        """Ask for the time, taking half the round trip for each way."""
        asked_at = time.time()
        answer = await connection.scalar(text("SELECT extract(epoch FROM clock_timestamp())::float8"))
        self.offset_seconds = float(answer) - (asked_at + time.time()) / 2

    def uuid7(self) -> UUID:
        """Return a new id."""
        return uuid7_at(self.now())


def uuid7_at(seconds: float) -> UUID:
    """Return a new id made at `seconds` since 1970."""
    milliseconds = int(seconds * 1000)
    random = int.from_bytes(os.urandom(10), "big") & _RANDOM_MASK
    return UUID(int=milliseconds << 80 | _VERSION | random & ~_VARIANT | _VARIANT)


def uuid7_floor(moment: datetime) -> UUID:
    """Return the bound below every id made at or after `moment`, to the millisecond; without a zone it is UTC's."""
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return UUID(int=max(0, int(aware.timestamp() * 1000)) << 80)


def uuid7_time(value: UUID) -> datetime:
    """Return when an id was made, to the millisecond."""
    return datetime.fromtimestamp((value.int >> 80) / 1000, UTC)
