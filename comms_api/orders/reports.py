"""Read reports of orders, decide the effect of each, and record them.

All waiting requests share one statement, and each gets its own outcomes.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any
from uuid import UUID

import msgspec

from comms_api.database.coalescing import Coalescer
from comms_api.database.connection import Engine
from comms_api.duties.repeating import Duty
from comms_api.errors import Malformed, TooLarge
from comms_api.fairness.slices import Steps
from comms_api.meters import Histogram
from comms_api.orders.leases import extend_leases
from comms_api.orders.model import DATA_BYTES_MAXIMUM, MESSAGE_CHARACTERS_MAXIMUM, Ending, OrderKey, Report
from comms_api.orders.spans import record_reports
from comms_api.orders.transitions import find_statuses, find_traces, finish_orders
from comms_api.protocol import (
    RESULT_FAILURE,
    RESULT_SUCCESS,
    RESULT_UNKNOWN,
    OrderResult,
    RawOrderResults,
    Rejection,
    ReportOutcome,
    Result,
)
from comms_api.spans import RecordSpan, current_traceparent
from comms_api.text.faults import describe_fault

REPORTS_MAXIMUM = 10_000
"""A poll returns at most 1,000 orders."""

REPORTS_AT_ONCE = 1_000
"""The maximum number of reports in one statement: the server takes 10 ms to prepare it and to read its answer."""


class _Named(msgspec.Struct, frozen=True):
    order_id: str = ""


REJECTION_CHARACTERS_MAXIMUM = 4_096
"""Longer data is not checked for a rejection."""

_BATCH = msgspec.json.Decoder(RawOrderResults)
_REJECTION = msgspec.json.Decoder(Rejection)
_NAMED = msgspec.json.Decoder(_Named)
# Not strict: agents in other languages send numbers as texts.
_REPORT = msgspec.json.Decoder(OrderResult, strict=False)


def read_reports(body: bytes) -> Steps[tuple[dict[int, OrderResult], list[ReportOutcome]]]:
    """Return the reports of a batch by their index, and the outcomes of unreadable ones.

    Raises `Malformed` if the reports cannot be separated, and `TooLarge` for too many.
    """
    reports: dict[int, OrderResult] = {}
    refused: list[ReportOutcome] = []
    for index, raw in enumerate((yield from _split(body))):
        fault = ""
        try:
            bytes(raw).decode()  # the decoder does not check raw data
            reports[index] = _REPORT.decode(raw)
        except (ValueError, RecursionError) as error:
            fault = f"results[{index}]: {error}"
        yield None
        if fault:
            refused.append(ReportOutcome(index, _find_order_id(raw), fault, 400))
            yield None
    return reports, refused


def _split(body: bytes) -> Steps[list[msgspec.Raw]]:
    try:
        if body.count(b",") >= REPORTS_MAXIMUM:  # otherwise, there are not more
            yield None
            _bounded_results()
            yield None
            decoder = _bounded_decoder()
            yield None
            decoder.decode(body)
            yield None
        return _BATCH.decode(body).results
    except (ValueError, RecursionError) as error:
        if "at most length" in str(error):
            raise TooLarge(f"A request has at most {REPORTS_MAXIMUM} results.") from None
        fault = describe_fault(error, body, RawOrderResults)
        raise Malformed(f'Expected {{"results": [{{"order_id", "result": {{"code"}}}}…]}}: {fault}') from None


@cache
def _bounded_results() -> type[msgspec.Struct]:
    """Return a type of results that ends decoding at the first excess result: only the fields of a struct do so.

    Making this type and its decoder takes 15 ms each, and 6 MB, so only a process that needs them makes them.
    """
    absent = msgspec.Raw()
    fields = [(f"result_{number}", msgspec.Raw, absent) for number in range(REPORTS_MAXIMUM)]
    return msgspec.defstruct("Results", fields, array_like=True, forbid_unknown_fields=True)


@cache
def _bounded_decoder() -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(msgspec.defstruct("Batch", [("results", _bounded_results())]))


def _find_order_id(report: msgspec.Raw) -> str:
    try:
        return _NAMED.decode(report).order_id
    except (ValueError, RecursionError):
        return ""


class Reports:
    """Records the reports of agents."""

    def __init__(self, engine: Engine, lease_seconds: float, record_span: RecordSpan | None = None) -> None:
        self._engine = engine
        self._record_span = record_span
        self._lease_seconds = lease_seconds
        self._writer = Coalescer[Report, ReportOutcome](self._record, self._refuse, REPORTS_AT_ONCE)
        self.writers: Mapping[str, Coalescer[Any, Any]] = {"reports": self._writer}
        self.ended = Counter({"success": 0, "failure": 0, "rejected": 0})
        """The number of orders that reports have ended."""

        self.execution_seconds = Histogram()
        """The time from the first offer of each of these orders to its result."""

    def duties(self) -> list[Duty]:
        """Return the writer."""
        return [self._writer.duty("reports writer")]

    async def report(self, agent_id: UUID, results: Sequence[OrderResult]) -> Sequence[ReportOutcome]:
        """Record one agent's results and return an outcome for each, in order, after the commit.

        More than `REPORTS_AT_ONCE` need several commits. Idempotent: a result of an order that has ended changes
        nothing and is answered `noop`.
        """
        link = current_traceparent()
        reports = [Report(agent_id, index, result, link) for index, result in enumerate(results)]
        outcomes: list[ReportOutcome] = []
        for start in range(0, len(reports), REPORTS_AT_ONCE):
            outcomes += await self._writer.submit(agent_id, reports[start : start + REPORTS_AT_ONCE])
        return outcomes

    async def _record(self, reports: Sequence[Report]) -> Sequence[ReportOutcome]:
        keyed = [(key, report) for report in reports if _has_known_code(report) and (key := _find_key(report))]
        # If several reports end an order, the first one counts, as if they had arrived one by one.
        first = {key: report for key, report in reversed(keyed) if report.is_ending}
        running = [key for key, report in keyed if not report.is_ending]
        begun_at = time.perf_counter()
        async with self._engine.connect() as connection:
            endings = [_ending(order_id, report) for (order_id, _), report in first.items()]
            ended = await finish_orders(connection, endings) if endings else {}
            if ended and self._record_span is not None:
                stored_seconds = time.perf_counter() - begun_at
                traces = await find_traces(connection, [order_id for order_id, _ in ended])
                record_reports(self._record_span, traces, first, stored_seconds)
            if running:
                await extend_leases(connection, running, self._lease_seconds)
            others = [key for key, _ in keyed if key not in ended]
            statuses = dict.fromkeys(ended, "ended") | (await find_statuses(connection, others) if others else {})
        for ending in endings:
            if (seconds := ended.get((ending.order_id, ending.agent_id))) is not None:
                self.ended[ending.outcome or ending.status] += 1
                self.execution_seconds.observe(seconds)
        recorded = {id(first[key]) for key in ended}
        return [_outcome(report, statuses, is_recorded=id(report) in recorded) for report in reports]

    async def _refuse(self, report: Report, reason: str) -> ReportOutcome:
        return report.outcome(reason, 400)


def _find_key(report: Report) -> OrderKey | None:
    try:
        return UUID(report.order.order_id), report.agent_id
    except ValueError:
        return None


def _has_known_code(report: Report) -> bool:
    return RESULT_SUCCESS <= report.order.result.code <= RESULT_UNKNOWN


def _ending(order_id: UUID, report: Report) -> Ending:
    """Return how the report ends its order; a large message is cut, and large data is replaced by a note in it."""
    result = report.order.result
    message, data = _bounded(result)
    is_rejection = result.code == RESULT_FAILURE and data is not None and _is_rejection(data)
    return Ending(
        order_id=order_id,
        agent_id=report.agent_id,
        status="success" if result.code == RESULT_SUCCESS else "failure",
        code=result.code,
        message=message,
        data=data,
        outcome="rejected" if is_rejection else None,
    )


def _is_rejection(data: str) -> bool:
    try:
        return len(data) <= REJECTION_CHARACTERS_MAXIMUM and bool(_REJECTION.decode(data).rejected)
    except (ValueError, RecursionError):
        return False


def _bounded(result: Result) -> tuple[str, str | None]:
    message = (result.message or "").replace("\0", "\N{REPLACEMENT CHARACTER}")
    if len(message) > MESSAGE_CHARACTERS_MAXIMUM:
        message = f"{message[:MESSAGE_CHARACTERS_MAXIMUM]} … ({len(message)} characters)"
    data = bytes(result.data)
    if len(data) > DATA_BYTES_MAXIMUM:
        return f"{message} (data of {len(data)} bytes not kept)", None
    return message, None if data == b"null" else data.decode()


def _outcome(report: Report, statuses: Mapping[OrderKey, str], *, is_recorded: bool) -> ReportOutcome:
    """Return the outcome of a report; `statuses` are the orders' statuses after all reports of the group."""
    if is_recorded:
        return report.outcome("updated", 200)
    key = _find_key(report)
    if key is None:
        return report.outcome("order_id: not a UUID", 400)
    if not _has_known_code(report):
        return report.outcome("result.code: must be 0 to 4", 400)
    if key not in statuses:
        return report.outcome("no such order of this agent", 404)
    if statuses[key] == "pending":
        return report.outcome("this order was not offered yet", 409)
    return report.outcome("noop", 200)
