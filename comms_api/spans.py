"""Spans: the parts of a trace, each with its begin and its end (W3C Trace Context, OpenTelemetry).

Nothing here needs OpenTelemetry. With the setting `traces`, `app/tracing` records the spans; otherwise no task has a
current span, and `span` does nothing.
"""

import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, TypeAlias

import msgspec

Attributes: TypeAlias = Mapping[str, str | int]

COMMAND_ID = "messaging.message.conversation_id"
"""The attribute of spans with the id of a command."""

NO_ATTRIBUTES: Attributes = MappingProxyType({})
_NO_SPAN = nullcontext()


class CurrentSpan(msgspec.Struct, frozen=True):
    """The span that a task is in."""

    traceparent: str
    start_child: Callable[[str, Attributes], AbstractContextManager[None]]
    """Returns a context during which a part of the span, with a name and attributes, is the current span."""


CURRENT_SPAN: ContextVar[CurrentSpan | None] = ContextVar("current_span", default=None)


def span(name: str, attributes: Attributes = NO_ATTRIBUTES) -> AbstractContextManager[None]:
    """Return a context that is a part of the current span; it does nothing if there is none."""
    current = CURRENT_SPAN.get()
    return _NO_SPAN if current is None else current.start_child(name, attributes)


def current_traceparent() -> str | None:
    """Return the `traceparent` of the current span for other processes; None without a span."""
    current = CURRENT_SPAN.get()
    return None if current is None else current.traceparent


def current_trace_id() -> str | None:
    """Return the id of the trace of the current span, in hexadecimal digits; None if there is none."""
    traceparent = current_traceparent()
    return None if traceparent is None else traceparent.split("-")[1]


class OrderSpan(msgspec.Struct, frozen=True):
    """A span that ends now, in the trace of the command of one or more orders.

    `traceparent` is stored with the command, and `link` is that of a request in which this happens.
    """

    name: str
    traceparent: str
    seconds: float
    attributes: Attributes
    link: str | None = None


RecordSpan: TypeAlias = Callable[[OrderSpan], None]


class Tracer(msgspec.Struct, frozen=True):
    """Records spans: those of requests by the hooks of `http1`, and those of orders."""

    begin_request: Callable[[Any], None]
    end_request: Callable[[Any, int | None, int, float], None]
    record: RecordSpan


class TraceContext(msgspec.Struct, frozen=True):
    """A decoded `traceparent`: the span to continue, and whether its sender records the trace."""

    trace_id: int
    span_id: int
    is_sampled: bool


_TRACEPARENT = re.compile(
    rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-[ -~]*)?"
)
_IS_SAMPLED = 1


def read_traceparent(value: bytes) -> TraceContext | None:
    """Return the context of a `traceparent`, or None if it is invalid (W3C Trace Context, 3.2)."""
    match = _TRACEPARENT.fullmatch(value)
    if match is None:
        return None
    version, trace_id, span_id, flags, additions = match.groups()
    if version == b"00" and additions:
        return None  # only later versions may have more members
    return TraceContext(int(trace_id, 16), int(span_id, 16), bool(int(flags, 16) & _IS_SAMPLED))
