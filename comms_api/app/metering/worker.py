"""The metrics of a worker while it serves."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import msgspec

from comms_api.app.metering.measurements import Measurements
from comms_api.app.metering.stream import stream_sources
from comms_api.app.node import Node
from comms_api.database.connection import Engine
from comms_api.duties.health import DutyHealth
from comms_api.duties.repeating import repeating
from comms_api.http.meter import RequestMeter
from comms_api.metrics.fleet import Fleet, database_source
from comms_api.metrics.service import Metrics
from comms_api.metrics.snapshots import Snapshots


class Metering(msgspec.Struct, frozen=True):
    """The metrics of this node, and the meter of each API."""

    metrics: Metrics
    meters: Mapping[str, RequestMeter]


@asynccontextmanager
async def metered(
    node: Node, engine: Engine, health: DutyHealth, worker: int, snapshots: Snapshots
) -> AsyncIterator[Metering]:
    """Yield the metrics of a node; this worker shares its own during the block."""
    meters = {name: RequestMeter() for name in ("agents", "management")}
    measurements = Measurements(node, engine, health, meters)
    fleet = Fleet([database_source(engine), *stream_sources(node.events.meters)])
    metrics = Metrics(worker, snapshots, measurements.read, fleet)
    async with repeating(metrics.duties(), health):
        yield Metering(metrics, meters)
