"""What a report means: whether it ends its order and how, and what its sender is told."""

from uuid import UUID

import msgspec

from comms_api.commands.model import DATA_BYTES_MAXIMUM, MESSAGE_CHARACTERS_MAXIMUM, Report
from comms_api.protocol import (
    RESULT_IN_PROGRESS,
    RESULT_SUCCESS,
    RESULT_UNKNOWN,
    OrderStatus,
    ReportOutcome,
    Result,
)


class Ending(msgspec.Struct, frozen=True):
    """A report that ends its order, within the limits of what is kept."""

    order_id: UUID
    agent_id: UUID
    status: OrderStatus
    code: int
    message: str
    data: str | None


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
    message = result.message.replace("\0", "\N{REPLACEMENT CHARACTER}")
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
