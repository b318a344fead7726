"""Share this worker's metrics with the other workers of the node, and answer scrapes for all of them."""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module

from comms_api.duties.repeating import Duty
from comms_api.fairness.executors import BoundedExecutor
from comms_api.metrics.fleet import Fleet
from comms_api.metrics.model import Family, by, merge
from comms_api.metrics.snapshots import Snapshots

PUBLISH_SECONDS = 5.0
ENCODING_SECONDS = 2.0
"""Scrapes within this time get the same text: eight workers with all routes need 300 ms of CPU time to encode it."""

ENCODINGS_MAXIMUM = 8
NICENESS = 10


class Metrics:
    """The metrics of the node; `read` returns those of this worker."""

    def __init__(self, worker: int, snapshots: Snapshots, read: Callable[[], Iterable[Family]], fleet: Fleet) -> None:
        self._worker = worker
        self._snapshots = snapshots
        self._read = read
        self._fleet = fleet
        self._encoder = BoundedExecutor("metrics", 1, ENCODINGS_MAXIMUM, NICENESS)
        self._turn = asyncio.Lock()
        self._encoded_at: float | None = None
        self._text = b""

    def duties(self) -> Sequence[Duty]:
        """Return the duty that shares this worker's metrics."""
        return [Duty("metrics", self.publish, PUBLISH_SECONDS)]

    async def publish(self) -> None:
        """Share this worker's metrics."""
        self._snapshots.write(self._worker, self._read())

    async def scrape(self) -> bytes:
        """Return the metrics of all workers and of the fleet in Prometheus' text format."""
        async with self._turn:
            if self._encoded_at is None or time.monotonic() - self._encoded_at >= ENCODING_SECONDS:
                fleet = await self._fleet.read()
                await self.publish()
                self._text = await self._encoder.run("all", lambda: _encode(self._snapshots, fleet))
                self._encoded_at = time.monotonic()
            return self._text


def _encode(snapshots: Snapshots, fleet: Sequence[Family]) -> bytes:
    exposition = import_module("comms_api.metrics.exposition")  # a worker that is never scraped does not need it
    found = snapshots.read()
    ages = {str(worker): snapshot.age_seconds for worker, snapshot in found.items()}
    families = [
        *merge({worker: snapshot.families for worker, snapshot in found.items()}),
        by("worker", "gauge", "snapshot_age_seconds", "How old the metrics of the worker are.", ages),
        *fleet,
    ]
    encoded: bytes = exposition.encode(families)
    return encoded
