"""The spans of orders, in the traces of their commands."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice

from comms_api.orders.model import Claimed, CommandTrace, OrderKey, Report
from comms_api.spans import COMMAND_ID, OrderSpan, RecordSpan, current_traceparent

SPANS_AT_ONCE = 500
"""The most spans of one claim, answer or group of reports: the event loop takes 20 ms to record them."""


def record_claims(record: RecordSpan, claimed: Iterable[Claimed], seconds: float) -> None:
    """Record one span for each traced command that a claim has found orders of."""
    orders = Counter((claim.traceparent, claim.order.request_id) for claim in claimed if claim.traceparent)
    for (traceparent, request_id), count in islice(orders.items(), SPANS_AT_ONCE):
        attributes = _describe("claim", "receive", request_id) | {"messaging.batch.message_count": count}
        record(OrderSpan("claim", traceparent, seconds, attributes))


def begin_answer(record: RecordSpan, claimed: Sequence[Claimed]) -> Callable[[], None]:
    """Return a function that records a span for each traced order of an answer; call it when the answer is sent."""
    begun_at, link = time.perf_counter(), current_traceparent()

    def end() -> None:
        seconds = time.perf_counter() - begun_at
        for claim in claimed[:SPANS_AT_ONCE]:
            if claim.traceparent:
                order = claim.order
                attributes = _describe("poll answer", "process", order.request_id) | {
                    "messaging.message.id": order.order_id,
                    "comms_api.agent_id": str(claim.agent_id),
                    "comms_api.attempt": claim.attempt,
                }
                record(OrderSpan("poll answer", claim.traceparent, seconds, attributes, link))

    return end


def record_reports(
    record: RecordSpan, traced: Mapping[OrderKey, CommandTrace], reports: Mapping[OrderKey, Report], seconds: float
) -> None:
    """Record a span for each traced order that a report has ended."""
    for key, trace in islice(traced.items(), SPANS_AT_ONCE):
        order_id, agent_id = key
        attributes = _describe("report", "settle", str(trace.request_id)) | {
            "messaging.message.id": str(order_id),
            "comms_api.agent_id": str(agent_id),
            "comms_api.result_code": reports[key].order.result.code,
        }
        record(OrderSpan("report", trace.traceparent, seconds, attributes, reports[key].link))


def _describe(operation: str, kind: str, request_id: str) -> dict[str, str | int]:
    return {
        "messaging.system": "comms_api",
        "messaging.operation.name": operation,
        "messaging.operation.type": kind,
        COMMAND_ID: request_id,
    }
