"""The metrics of one worker: it reads the counters of its services."""

import os
import resource
import time
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path

import msgspec

from comms_api.app.node import Node
from comms_api.database.coalescing import Coalescer
from comms_api.database.connection import Engine
from comms_api.duties.health import DutyHealth
from comms_api.http.meter import RequestMeter
from comms_api.metrics.model import Family, by, family, single

VERSION = version("comms-api")
PAGE_BYTES = resource.getpagesize()
FILES_SECONDS = 30.0
"""Open files are counted at most this often: a node with 30,000 polls needs ten milliseconds for it."""


class Measurements:
    """Reads the metrics of a worker, without a query."""

    def __init__(self, node: Node, engine: Engine, health: DutyHealth, meters: Mapping[str, RequestMeter]) -> None:
        self._node = node
        self._engine = engine
        self._health = health
        self._meters = meters
        self._started_at = time.time()
        self._files = 0
        self._files_counted_at: float | None = None

    def read(self) -> Iterable[Family]:
        """Yield the families of metrics."""
        yield from self._requests()
        yield from self._batches()
        yield from self._stream()
        yield from self._writers()
        yield from self._orders()
        yield from self._logins()
        yield from self._duties()
        yield from self._process()

    def _requests(self) -> Iterable[Family]:
        yield family(
            "counter",
            "http_requests_total",
            "Requests that have ended; the status `left` means that the client did not wait for the answer.",
            [
                ({"api": api, "method": method, "route": route, "status": str(status or "left")}, count)
                for api, meter in self._meters.items()
                for (method, route, status), count in meter.counts().items()
            ],
        )
        yield family(
            "histogram",
            "http_request_duration_seconds",
            "The time from the head of a request to the end of its answer; held polls wait on purpose.",
            [
                ({"api": api, "method": method, "route": route}, seconds)
                for api, meter in self._meters.items()
                for (method, route), seconds in meter.durations().items()
            ],
        )
        answer_bytes = {api: float(meter.answer_bytes) for api, meter in self._meters.items()}
        yield by("api", "counter", "http_response_bytes_total", "Bytes of the bodies of answers.", answer_bytes)

    def _batches(self) -> Iterable[Family]:
        stored, applied = self._node.events.stored, self._node.states.applied
        batches: dict[str, float] = {"stored": stored.batches, "repeated": stored.repeated_batches}
        yield by("outcome", "counter", "event_batches_total", "Acknowledged stateless batches.", batches)
        yield single("counter", "events_total", "Stateless events that were stored.", stored.events)
        yield single("counter", "event_bytes_total", "Decoded bytes of stored stateless batches.", stored.body_bytes)
        batches = {"applied": applied.batches, "repeated": applied.repeated_batches}
        yield by("outcome", "counter", "state_batches_total", "Acknowledged batches with changes of states.", batches)
        yield single("counter", "state_changes_total", "Changes of states that were applied.", applied.changes)
        lines = self._node.events.quarantine.lines
        yield single("counter", "quarantined_lines_total", "Lines that were no events, kept or not.", lines)

    def _stream(self) -> Iterable[Family]:
        stream = self._node.events.meters.stream
        if stream is None:
            return
        yield single("gauge", "jetstream_up", "Whether the stream can be used.", float(stream.ready.is_set()))
        yield single(
            "histogram",
            "jetstream_publish_duration_seconds",
            "The time until the stream acknowledged a message.",
            stream.seconds,
        )
        failed = stream.failed_batches
        yield single("counter", "jetstream_failures_total", "Batches that the stream did not acknowledge.", failed)

    def _writers(self) -> Iterable[Family]:
        node = self._node
        writers: dict[str, Coalescer[object, object]] = {
            **node.events.meters.writers,
            **node.states.writers,
            **node.reports.writers,
            **node.login.writers,
        }
        groups = {name: writer.groups for name, writer in writers.items()}
        yield by("writer", "histogram", "commit_group_size", "Requests that share one commit.", groups)
        seconds = {name: writer.seconds for name, writer in writers.items()}
        yield by("writer", "histogram", "commit_duration_seconds", "The time to store one group.", seconds)
        waiting = {name: float(writer.waiting) for name, writer in writers.items()}
        yield by("writer", "gauge", "writer_queue_requests", "Requests that wait for their group.", waiting)
        held = {"small": float(node.bodies.small.held), "large": float(node.bodies.large.held)}
        yield by("size", "gauge", "request_body_bytes", "Bytes of the bodies that are read or stored.", held)
        pool = self._engine.pool_counts()
        yield by("state", "gauge", "database_pool_connections", "Connections of the pool.", pool)
        waits = self._engine.waits
        yield single("histogram", "database_pool_wait_seconds", "The time to get a connection.", waits)

    def _orders(self) -> Iterable[Family]:
        node = self._node
        dispatcher = node.dispatcher
        yield single("gauge", "polls_held", "Polls that wait for orders.", dispatcher.count_held())
        yield single("histogram", "claim_duration_seconds", "The time of one claim.", dispatcher.claim_seconds)
        yield single(
            "histogram",
            "order_offer_delay_seconds",
            "The time from an order's creation to its first offer, including a wait for its start or its agent.",
            dispatcher.offer_seconds,
        )
        yield single(
            "histogram",
            "order_execution_seconds",
            "The time from an order's first offer to its result.",
            node.reports.execution_seconds,
        )
        cancelled = node.orders.cancelled + node.commands.cancelled
        ended: dict[str, float] = {
            **node.reports.ended,
            "cancelled": cancelled,
            "expired": node.maintenance.expired,
        }
        yield by("outcome", "counter", "orders_ended_total", "Orders that have ended.", ended)

    def _logins(self) -> Iterable[Family]:
        node = self._node
        outcomes = {"agents": node.login.outcomes, "management": node.users.outcomes}
        yield family(
            "counter",
            "logins_total",
            "Logins of agents and users by their outcome.",
            [
                ({"api": api, "outcome": outcome}, count)
                for api, counts in outcomes.items()
                for outcome, count in counts.items()
            ],
        )
        requests = node.external.key_requests
        if requests is not None:
            counts = {name: float(count) for name, count in msgspec.structs.asdict(requests.counters).items()}
            yield by("event", "counter", "key_requests_total", "Key requests by what happened to them.", counts)
            yield single("gauge", "key_requests_in_flight", "Lookups that run or wait.", requests.in_flight)
        reader = node.revocation_reader
        age = reader.age_seconds
        yield single("gauge", "revocations_age_seconds", "The time since the revocations were read.", age)
        lag = reader.lag_seconds
        yield single("histogram", "revocation_lag_seconds", "The time from a revocation to its effect.", lag)

    def _duties(self) -> Iterable[Family]:
        lags = {name: report.lag_seconds for name, report in self._health.report().items()}
        yield by("duty", "gauge", "duty_lag_seconds", "How much later than allowed a duty is.", lags)
        failures = self._health.failures()
        yield by("duty", "counter", "duty_failures_total", "Passes of a duty that failed.", failures)

    def _process(self) -> Iterable[Family]:
        yield by("version", "gauge", "build_info", "Always 1; the label is the version.", {VERSION: 1.0})
        if (expires_at := self._node.certificate.expires_at) is not None:
            expiry = expires_at.timestamp()
            yield single(
                "gauge", "certificate_expiry_timestamp_seconds", "When the served certificate expires.", expiry
            )
        usage = resource.getrusage(resource.RUSAGE_SELF)
        seconds = usage.ru_utime + usage.ru_stime
        yield single("counter", "process_cpu_seconds_total", "CPU time of the worker.", seconds)
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES
        yield single("gauge", "process_resident_memory_bytes", "Resident memory of the worker.", resident)
        yield single("gauge", "process_start_time_seconds", "When the worker started.", self._started_at)
        yield single("gauge", "process_open_fds", "Open files, counted every 30 seconds.", self._count_files())
        maximum = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        yield single("gauge", "process_max_fds", "The limit of open files.", maximum)

    def _count_files(self) -> int:
        now = time.monotonic()
        if self._files_counted_at is None or now - self._files_counted_at >= FILES_SECONDS:
            self._files, self._files_counted_at = len(os.listdir("/proc/self/fd")), now  # noqa: PTH208 - the names only
        return self._files
