"""Take agents' reports: the reports of all requests that wait share one statement, and each gets its own outcome."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from comms_api.commands.endings import Owned, find_statuses, finish_orders
from comms_api.commands.leases import extend_leases
from comms_api.commands.model import Report
from comms_api.commands.outcomes import (
    ending_of,
    is_ending,
    is_known_code,
    order_id_of,
    outcome_of,
    refused,
)
from comms_api.database.coalescing import Coalescer
from comms_api.database.direct import direct
from comms_api.protocol import OrderResult, ReportOutcome


class Reports:
    """Ends orders by what their agents report."""

    def __init__(self, engine: AsyncEngine, lease_seconds: float) -> None:
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
        async with direct(self._engine) as connection:
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
