"""Take agents' reports of their orders: read them, decide what each one does, and record them.

The reports of all requests that wait share one statement, and each gets its own outcome.
"""

from collections.abc import Sequence
from uuid import UUID

import msgspec

from comms_api.database.coalescing import Coalescer
from comms_api.database.connection import Engine
from comms_api.errors import Malformed, TooLarge
from comms_api.orders.leases import extend_leases
from comms_api.orders.model import DATA_BYTES_MAXIMUM, MESSAGE_CHARACTERS_MAXIMUM, Ending, Report
from comms_api.orders.transitions import Owned, find_statuses, finish_orders
from comms_api.protocol import (
    RESULT_IN_PROGRESS,
    RESULT_SUCCESS,
    RESULT_UNKNOWN,
    OrderResult,
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


class Reports:
    """Ends orders by what their agents report."""

    def __init__(self, engine: Engine, lease_seconds: float) -> None:
        """Take how long an agent at work on an order keeps it to itself."""
        self._engine = engine
        self._lease_seconds = lease_seconds
        self.writer = Coalescer[Report, ReportOutcome](self._record, self._refuse)

    async def report(self, agent_id: UUID, results: Sequence[OrderResult]) -> Sequence[ReportOutcome]:
        """Record one agent's results and return an outcome for each, in order, after the commit.

        Idempotent: a result of an order that has ended changes nothing and is answered `noop`.
        """
        if not results:
            return []
        return await self.writer.submit(
            agent_id, [Report(agent_id, index, result) for index, result in enumerate(results)]
        )

    async def _record(self, reports: Sequence[Report]) -> Sequence[ReportOutcome]:
        known = [(order_id_of(report), report) for report in reports if is_known_code(report)]
        owned = [(order_id, report) for order_id, report in known if order_id is not None]
        pairs = [(order_id, report.agent_id) for order_id, report in owned]
        # The first report of an order counts, as it would have, had they come one by one.
        first = {(order_id, report.agent_id): report for order_id, report in reversed(owned) if is_ending(report)}
        running = [(order_id, report.agent_id) for order_id, report in owned if not is_ending(report)]
        async with self._engine.connect() as connection:
            endings = [ending_of(order_id, report) for (order_id, _), report in first.items()]
            ended = await finish_orders(connection, endings) if endings else set()
            if running:
                await extend_leases(connection, running, self._lease_seconds)
            others = [pair for pair in pairs if pair not in ended]
            statuses = dict.fromkeys(ended, "ended") | (await find_statuses(connection, others) if others else {})
        return [_outcome(report, first, ended, statuses) for report in reports]

    async def _refuse(self, report: Report, reason: str) -> ReportOutcome:
        return refused(report, reason, 400)


def _outcome(
    report: Report, first: dict[Owned, Report], ended: set[Owned], statuses: dict[Owned, str]
) -> ReportOutcome:
    order_id = order_id_of(report)
    if order_id is None:
        return refused(report, "order_id: not a UUID", 400)
    if not is_known_code(report):
        return refused(report, "result.code: must be 0 to 4", 400)
    owned = (order_id, report.agent_id)
    return outcome_of(report, statuses.get(owned), ended=owned in ended and first.get(owned) is report)
