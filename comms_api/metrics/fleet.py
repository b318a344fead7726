"""The metrics of the whole fleet, which every node shows alike."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from sqlalchemy import text

from comms_api.database.connection import Engine
from comms_api.database.failures import is_outage
from comms_api.metrics.model import Family, by, single
from comms_api.metrics.store import find_open_orders

FLEET_SECONDS = 10.0
"""The sources are read at most this often, however often a worker is scraped."""

SOURCE_SECONDS = 2.0
"""The time limit of a source; the metrics of a slower one are missing."""

Source: TypeAlias = Callable[[], Awaitable[Sequence[Family]]]
"""Reads some metrics of the fleet, within `SOURCE_SECONDS`."""


_PING = text("SELECT 1")


class Fleet:
    """Reads the sources together, and remembers the metrics for `FLEET_SECONDS`."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources
        self._families: Sequence[Family] = ()
        self._read_at: float | None = None
        self._turn = asyncio.Lock()

    async def read(self) -> Sequence[Family]:
        """Return the metrics of all sources."""
        async with self._turn:
            now = time.monotonic()
            if self._read_at is None or now - self._read_at >= FLEET_SECONDS:
                found = await asyncio.gather(*(source() for source in self._sources))
                self._families, self._read_at = [one for families in found for one in families], now
            return self._families


def database_source(engine: Engine) -> Source:
    """Return the source of the open orders; without an answer, it says only that the database is down."""

    async def read() -> Sequence[Family]:
        families: list[Family] = []
        is_up = False
        try:
            async with asyncio.timeout(SOURCE_SECONDS), engine.connect() as connection:
                await connection.scalar(_PING)
                is_up = True
                orders = await find_open_orders(connection)
        except Exception as error:
            if not (isinstance(error, TimeoutError) or is_outage(error)):
                raise
        else:
            counts = {"pending": orders.pending, "sent": orders.sent}
            families = [
                by("status", "gauge", "orders_open", "Orders that have not ended; an estimate if many.", counts),
                single("gauge", "orders_oldest_age_seconds", "Age of the oldest open order.", orders.oldest_seconds),
            ]
        return [single("gauge", "database_up", "Whether the database answers.", float(is_up)), *families]

    return read
