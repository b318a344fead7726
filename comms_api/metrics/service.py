"""Share this worker's metrics with the other workers of the node, and answer scrapes for all of them."""

from collections.abc import Callable, Iterable, Sequence
from importlib import import_module

from comms_api.duties.repeating import Duty
from comms_api.fairness.executors import BoundedExecutor
from comms_api.metrics.fleet import Fleet
from comms_api.metrics.model import Family, by, merge
from comms_api.metrics.snapshots import Snapshots

PUBLISH_SECONDS = 5.0
SCRAPES_MAXIMUM = 16


class Metrics:
    """The metrics of the node; `read` returns those of this worker."""

    def __init__(self, worker: int, snapshots: Snapshots, read: Callable[[], Iterable[Family]], fleet: Fleet) -> None:
        self._worker = worker
        self._snapshots = snapshots
        self._read = read
        self._fleet = fleet
        self._encoder = BoundedExecutor("metrics", 1, SCRAPES_MAXIMUM)

    def duties(self) -> Sequence[Duty]:
        """Return the duty that shares this worker's metrics."""
        return [Duty("metrics", self.publish, PUBLISH_SECONDS)]

    async def publish(self) -> None:
        """Share this worker's metrics."""
        self._snapshots.write(self._worker, self._read())

    async def scrape(self, client: str) -> bytes:
        """Return the metrics of all workers and of the fleet in Prometheus' text format."""
        fleet = await self._fleet.read()
        await self.publish()
        return await self._encoder.run(client, lambda: _encode(self._snapshots, fleet))


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
