"""Share this worker's metrics with the other workers of the node, and answer scrapes for all of them."""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module

from comms_api.database.connection import Engine
from comms_api.database.failures import is_outage
from comms_api.duties.repeating import Duty
from comms_api.fairness.executors import BoundedExecutor
from comms_api.metrics.model import Family, by, merge, single
from comms_api.metrics.snapshots import Snapshots
from comms_api.metrics.store import OpenOrders, find_open_orders

PUBLISH_SECONDS = 5.0
FLEET_SECONDS = 10.0
"""The counts of the fleet are read at most this often."""

FLEET_WAIT_SECONDS = 2.0
SCRAPES_MAXIMUM = 16


class Metrics:
    """The metrics of the node; `read` returns those of this worker."""

    def __init__(self, engine: Engine, worker: int, snapshots: Snapshots, read: Callable[[], Iterable[Family]]) -> None:
        self._engine = engine
        self._worker = worker
        self._snapshots = snapshots
        self._read = read
        self._encoder = BoundedExecutor("metrics", 1, SCRAPES_MAXIMUM)
        self._fleet_read_at: float | None = None
        self._open_orders: OpenOrders | None = None
        self._reading = asyncio.Lock()

    def duties(self) -> Sequence[Duty]:
        """Return the duty that shares this worker's metrics."""
        return [Duty("metrics", self.publish, PUBLISH_SECONDS)]

    async def publish(self) -> None:
        """Share this worker's metrics."""
        self._snapshots.write(self._worker, self._read())

    async def scrape(self, client: str) -> bytes:
        """Return the metrics of all workers and of the fleet in Prometheus' text format."""
        await self.publish()
        fleet = await self._read_fleet()
        return await self._encoder.run(client, lambda: _encode(self._snapshots, fleet))

    async def _read_fleet(self) -> list[Family]:
        """Return the counts of the fleet; only whether the database answers if it does not."""
        async with self._reading:
            now = time.monotonic()
            if self._fleet_read_at is None or now - self._fleet_read_at >= FLEET_SECONDS:
                self._open_orders = await self._find_open_orders()
                self._fleet_read_at = now
        found = self._open_orders
        families = [single("gauge", "database_up", "Whether the database answers.", float(found is not None))]
        if found is not None:
            counts = {"pending": found.pending, "sent": found.sent}
            families += [
                by("status", "gauge", "orders_open", "Orders that have not ended; beyond 20,000 an estimate.", counts),
                single("gauge", "orders_oldest_age_seconds", "The age of the oldest open order.", found.oldest_seconds),
            ]
        return families

    async def _find_open_orders(self) -> OpenOrders | None:
        try:
            async with asyncio.timeout(FLEET_WAIT_SECONDS), self._engine.connect() as connection:
                return await find_open_orders(connection)
        except Exception as error:
            if isinstance(error, TimeoutError) or is_outage(error):
                return None
            raise


def _encode(snapshots: Snapshots, fleet: Sequence[Family]) -> bytes:
    exposition = import_module("comms_api.metrics.exposition")  # a worker that is never scraped does not need it
    encoded: bytes = exposition.encode([*merge(snapshots.read()), *fleet])
    return encoded
