"""Read reports and decide each one: whether and how it ends its order, and the answer to its sender."""

from uuid import UUID

import msgspec

from comms_api.commands.model import DATA_BYTES_MAXIMUM, MESSAGE_CHARACTERS_MAXIMUM, Report
from comms_api.errors import Malformed, TooLarge
from comms_api.protocol import (
    RESULT_IN_PROGRESS,
    RESULT_SUCCESS,
    RESULT_UNKNOWN,
    OrderResult,
    OrderStatus,
    RawOrderResults,
    ReportOutcome,
    Result,
)

REPORTS_MAXIMUM = 10_000
"""A poll returns at most 1,000 orders."""


class _Named(msgspec.Struct, frozen=True):
    order_id: str = ""


_BATCH = msgspec.json.Decoder(RawOrderResults)
_NAMED = msgspec.json.Decoder(_Named)
# Not strict: agents in other languages send numbers as texts.
_REPORT = msgspec.json.Decoder(OrderResult, strict=False)


class Ending(msgspec.Struct, frozen=True):
    """A report that ends its order, within the limits of what is kept."""

    order_id: UUID
    agent_id: UUID
    status: OrderStatus
    code: int
    message: str
    data: str | None


def read_reports(body: bytes) -> tuple[dict[int, OrderResult], list[ReportOutcome]]:
    """Return the reports of a batch by their index, and the outcomes of unreadable ones.

    Raises `Malformed` when the reports cannot be told apart, and `TooLarge` for too many.
    """
    reports: dict[int, OrderResult] = {}
    refused: list[ReportOutcome] = []
    try:
        raws = _BATCH.decode(body).results
    except (ValueError, RecursionError) as error:
        raise Malformed(f'Expected {{"results": [{{"order_id", "result": {{"code"}}}}…]}}: {error}') from None
    if len(raws) > REPORTS_MAXIMUM:
        raise TooLarge(f"A request has at most {REPORTS_MAXIMUM} results.")
    for index, raw in enumerate(raws):
        try:
            bytes(raw).decode()  # the decoder passes raw data on unchecked
            reports[index] = _REPORT.decode(raw)
        except (ValueError, RecursionError) as error:
            refused.append(ReportOutcome(index, _find_order_id(raw), f"results[{index}]: {error}", 400))
    return reports, refused


def _find_order_id(report: msgspec.Raw) -> str:
    try:
        return _NAMED.decode(report).order_id
    except (ValueError, RecursionError):
        return ""


def order_id_of(report: Report) -> UUID | None:
    """Return the id of the order that is reported on, or None for what is no id."""
    try:
        return UUID(report.order.order_id)
    except ValueError:
        return None


def is_known_code(report: Report) -> bool:
    """Return whether the code is one of the protocol's."""
    return RESULT_SUCCESS <= report.order.result.code <= RESULT_UNKNOWN


def is_ending(report: Report) -> bool:
    """Return whether the report ends its order."""
    return report.order.result.code != RESULT_IN_PROGRESS


def ending_of(order_id: UUID, report: Report) -> Ending:
    """Return how the report ends its order; a message or data too large to keep are cut, and say so."""
    result = report.order.result
    message, data = _bounded(result)
    return Ending(
        order_id=order_id,
        agent_id=report.agent_id,
        status="success" if result.code == RESULT_SUCCESS else "failure",
        code=result.code,
        message=message,
        data=data,
    )


def _bounded(result: Result) -> tuple[str, str | None]:
    message = (result.message or "").replace("\0", "\N{REPLACEMENT CHARACTER}")
    if len(message) > MESSAGE_CHARACTERS_MAXIMUM:
        message = f"{message[:MESSAGE_CHARACTERS_MAXIMUM]} … ({len(message)} characters)"
    data = bytes(result.data)
    if len(data) > DATA_BYTES_MAXIMUM:
        return f"{message} (data of {len(data)} bytes not kept)", None
    return message, None if data == b"null" else data.decode()


def refused(report: Report, why: str, status: int) -> ReportOutcome:
    """Tell why a report changed nothing."""
    return ReportOutcome(report.index, report.order.order_id, why, status)


def outcome_of(report: Report, status_before: str | None, *, ended: bool) -> ReportOutcome:
    """Tell what a report did, given the status that its order had if the report did not end it."""
    if ended:
        return refused(report, "updated", 200)
    if status_before is None:
        return refused(report, "no such order of this agent", 404)
    if status_before == "pending":
        return refused(report, "this order was not offered yet", 409)
    return refused(report, "noop", 200)
