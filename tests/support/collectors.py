"""A collector of OpenTelemetry that keeps the spans it receives by OTLP over HTTP."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from support.waiting import wait_until


@dataclass(frozen=True)
class ReceivedSpan:
    """A span, with its ids in hexadecimal digits; `parent` is empty for the first span of a trace."""

    trace: str
    id: str
    parent: str
    name: str
    kind: int
    attributes: dict[str, str]
    links: Sequence[tuple[str, str]]
    seconds: float
    process: str


@dataclass
class Collector:
    """A running collector; `bodies` are the requests, byte by byte."""

    port: int = 0
    bodies: list[bytes] = field(default_factory=list)
    spans: list[ReceivedSpan] = field(default_factory=list)

    @property
    def variables(self) -> dict[str, str]:
        """The environment of a node that exports to it, often."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.port}", "OTEL_BSP_SCHEDULE_DELAY": "50"}

    def of_trace(self, trace: str) -> list[ReceivedSpan]:
        return [span for span in list(self.spans) if span.trace == trace]

    def wait_for(
        self, is_whole: Callable[[list[ReceivedSpan]], object], trace: str | None = None
    ) -> list[ReceivedSpan]:
        """Return the spans of a trace, or all spans, when the condition holds for them."""

        def found() -> list[ReceivedSpan]:
            return list(self.spans) if trace is None else self.of_trace(trace)

        wait_until(lambda: is_whole(found()), says=found)
        return found()

    def receive(self, body: bytes) -> None:
        self.bodies.append(body)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            described = {entry.key: entry.value.string_value for entry in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.spans += [
                    ReceivedSpan(
                        span.trace_id.hex(),
                        span.span_id.hex(),
                        span.parent_span_id.hex(),
                        span.name,
                        span.kind,
                        {
                            entry.key: entry.value.string_value or str(entry.value.int_value)
                            for entry in span.attributes
                        },
                        [(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
                        (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
                        f"{described['service.name']} {described['service.instance.id']}",
                    )
                    for span in scope.spans
                ]


@contextmanager
def running_collector() -> Iterator[Collector]:
    """Run a collector for the block."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            collector.receive(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    collector.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
