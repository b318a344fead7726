"""Records spans with OpenTelemetry's SDK; a thread exports them by OTLP.

It needs the extra `otel`, so this module is imported by name. The SDK reads its standard variables `OTEL_…` from the
environment.
"""

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from threading import Thread
from typing import Any

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import (
    SERVICE_INSTANCE_ID,
    SERVICE_NAME,
    SERVICE_VERSION,
    OTELResourceDetector,
    Resource,
)
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)
from opentelemetry.trace import Tracer as SdkTracer

from comms_api import __version__
from comms_api.cluster.model import NodeProcess
from comms_api.http.authentication import subject_of
from comms_api.http1.endpoint import AUTHENTICATED
from comms_api.spans import (
    CURRENT_SPAN,
    Attributes,
    CurrentSpan,
    OrderSpan,
    TraceContext,
    Tracer,
    read_traceparent,
)
from comms_api.text.printable import escape_controls

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 2.0
"""The time in which the last spans must leave the process."""

COMPLAINT_SECONDS = 60.0
COMPLAINT_CHARACTERS_MAXIMUM = 512

SPAN = "comms_api.span"
"""The key of a request's span in the `state` of its scope."""

STARTING_METHODS = frozenset({"POST", "PUT", "PATCH", "DELETE"})
"""The methods that start a trace. Polls and scrapes would start endless traces of nothing."""

_KINDS = {"submit": SpanKind.PRODUCER, "poll answer": SpanKind.CONSUMER, "report": SpanKind.CONSUMER}
_NO_CONTEXT = Context()


@contextmanager
def open_tracer(process: NodeProcess) -> Iterator[Tracer]:
    """Yield the tracer of a process, and export its last spans after the block."""
    _limit_complaints()
    provider = TracerProvider(resource=_resource_of(process), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    recorder = _Recorder(provider.get_tracer("comms_api", __version__))
    try:
        yield Tracer(recorder.begin_request, recorder.end_request, recorder.record)
    finally:
        # If the collector is away, the exporter would retry for much longer.
        flush = Thread(target=provider.shutdown, daemon=True)
        flush.start()
        flush.join(FLUSH_SECONDS)


def _resource_of(process: NodeProcess) -> Resource:
    """Describe the process; `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` override this."""
    described = {
        SERVICE_NAME: "comms-api",
        SERVICE_VERSION: __version__,
        SERVICE_INSTANCE_ID: f"{process.address.name}/{process.worker}",
    }
    return Resource.create(described).merge(OTELResourceDetector().detect())


class _Recorder:
    """Starts and ends the spans of OpenTelemetry."""

    def __init__(self, tracer: SdkTracer) -> None:
        self._tracer = tracer

    def begin_request(self, scope: Any) -> None:
        """Continue the trace of a request in its task, or start one."""
        parent = _find_parent(scope["headers"])
        if scope["method"] not in STARTING_METHODS if parent is None else not parent.is_sampled:
            return
        context = _NO_CONTEXT if parent is None else _remote(parent)
        span = self._tracer.start_span(scope["method"], context, SpanKind.SERVER)
        if span.is_recording():
            scope["state"][SPAN] = span
            CURRENT_SPAN.set(self._current(span, scope["state"]))

    def end_request(self, scope: Any, status: int | None, _size: int, _seconds: float) -> None:
        """End the span of a request, unless the request had no valid token: strangers must not fill the queue."""
        span: Span | None = scope["state"].get(SPAN)
        if span is None or AUTHENTICATED not in scope["state"]:
            return
        method, route = scope["method"], scope.get("path_template")
        found = {
            "http.request.method": method,
            "http.route": route,
            "http.response.status_code": status,
            "url.scheme": "https",
            "comms_api.subject": subject_of(scope),
        }
        span.set_attributes({name: value for name, value in found.items() if value is not None})
        if route is not None:
            span.update_name(f"{method} {route}")
        if status is None or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            span.set_attribute("error.type", "client left" if status is None else str(status))
            span.set_status(StatusCode.ERROR)
        span.end()

    def record(self, ended: OrderSpan) -> None:
        """Record a span of an order."""
        parent, now = read_traceparent(ended.traceparent.encode()), time.time_ns()
        link = ended.link and read_traceparent(ended.link.encode())
        if parent is None:
            return
        self._tracer.start_span(
            ended.name,
            _remote(parent),
            _KINDS.get(ended.name, SpanKind.INTERNAL),
            ended.attributes,
            [Link(_span_context(link))] if link else None,
            start_time=now - int(ended.seconds * 1e9),
        ).end(now)

    def _current(self, span: Span, state: Mapping[str, object]) -> CurrentSpan:
        context = span.get_span_context()
        traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

        @contextmanager
        def start_child(name: str, attributes: Attributes) -> Iterator[None]:
            if AUTHENTICATED not in state:
                yield
                return
            kind = _KINDS.get(name, SpanKind.INTERNAL)
            child = self._tracer.start_span(name, set_span_in_context(span, _NO_CONTEXT), kind, attributes)
            before = CURRENT_SPAN.set(self._current(child, state))
            try:
                yield
            except BaseException as error:
                # The message of an error may contain what a client has sent.
                child.set_attribute("error.type", type(error).__name__)
                child.set_status(StatusCode.ERROR)
                raise
            finally:
                CURRENT_SPAN.reset(before)
                child.end()

        return CurrentSpan(traceparent, start_child)


def _find_parent(headers: list[tuple[bytes, bytes]]) -> TraceContext | None:
    values = [value for name, value in headers if name == b"traceparent"]
    return read_traceparent(values[0]) if len(values) == 1 else None


def _span_context(context: TraceContext) -> SpanContext:
    return SpanContext(context.trace_id, context.span_id, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))


def _remote(context: TraceContext) -> Context:
    return set_span_in_context(NonRecordingSpan(_span_context(context)), _NO_CONTEXT)


class _Complaints(logging.Handler):
    """Logs at most one complaint of OpenTelemetry a minute: while the collector is away, it has many."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._logged_at = -COMPLAINT_SECONDS

    def emit(self, record: logging.LogRecord) -> None:
        """Log a complaint, unless there was one in the last minute."""
        now = time.monotonic()
        if now - self._logged_at >= COMPLAINT_SECONDS:
            self._logged_at = now
            logger.warning("traces: %s", escape_controls(record.getMessage()[:COMPLAINT_CHARACTERS_MAXIMUM]))


def _limit_complaints() -> None:
    library = logging.getLogger("opentelemetry")
    library.handlers, library.propagate = [_Complaints()], False
