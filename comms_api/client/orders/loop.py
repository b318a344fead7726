"""Execute orders, each once: remembered before it is begun, its result before it is reported."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TypeAlias

import msgspec

from comms_api.client.spool.spool import Spool
from comms_api.client.supervise import Health, keep_going, until_done
from comms_api.client.transport.session import REQUEST_SECONDS, Call, Refused, Session
from comms_api.protocol import (
    CANCEL_ACTION,
    RESULT_FAILURE,
    RESULT_SUCCESS,
    RESULT_TIMEOUT,
    RESULT_UNKNOWN,
    CancelArguments,
    Order,
    OrderResult,
    OrderResults,
    Orders,
    ReportOutcomes,
    Result,
)

logger = logging.getLogger(__name__)

Handler: TypeAlias = Callable[[Order], Awaitable[Result]]
"""Executes one kind of action; what it raises is reported as a failure."""

HANDLER_SECONDS = 600.0
RUNNING_MAXIMUM = 8
REPORTS_PER_REQUEST = 500
LEAST_POLL_SECONDS = 1.0
"""An empty answer that comes sooner is followed by such a pause: a server in trouble is not asked in a loop."""


def success(message: str, data: object = None) -> Result:
    """Return the result of an order that was executed."""
    return Result(RESULT_SUCCESS, message, msgspec.Raw(msgspec.json.encode(data)))


class OrderLoop:
    """Holds the poll, executes what arrives, and reports."""

    def __init__(self, session: Session, spool: Spool, handlers: Mapping[str, Handler], wait_seconds: float) -> None:
        """Take the handlers by the name of their action."""
        self._session = session
        self._spool = spool
        self._handlers = handlers
        self._wait_seconds = wait_seconds
        self._slots = asyncio.Semaphore(RUNNING_MAXIMUM)
        self._has_results = asyncio.Event()
        self._reports_maximum = REPORTS_PER_REQUEST
        self._running: dict[str, tuple[Order, asyncio.Task[None]]] = {}

    async def run(self) -> None:
        """Poll, execute and report until cancelled."""
        self._abandon()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(keep_going("reporting results", self._report))
            await keep_going("polling", partial(self._poll_and_begin, tasks))

    async def _poll_and_begin(self, tasks: asyncio.TaskGroup) -> None:
        for order in await self._poll_paced():
            if self._accept(order):
                self._begin(tasks, order)

    def _begin(self, tasks: asyncio.TaskGroup, order: Order) -> None:
        task = tasks.create_task(self.execute(order))
        self._running[order.order_id] = order, task
        task.add_done_callback(lambda _: self._running.pop(order.order_id, None))

    async def run_once(self) -> None:
        """Execute what waits at the server, and report."""
        self._abandon()
        for order in await self.poll(0):
            if self._accept(order):
                await self.execute(order)
        while await self.report_batch():
            pass

    def _abandon(self) -> None:
        self._spool.abandon_orders(Result(RESULT_UNKNOWN, "the agent was restarted while it executed this order"))
        self._has_results.set()

    async def poll(self, wait_seconds: float) -> list[Order]:
        """Return the orders that the server has for us, waiting up to `wait_seconds` for the first."""
        path = f"/commands?wait={wait_seconds:g}"
        return (await self._session.ask(Call("GET", path, None, wait_seconds + REQUEST_SECONDS), Orders)).commands

    async def _poll_paced(self) -> list[Order]:
        started = time.monotonic()
        try:
            orders = await self.poll(self._wait_seconds)
        except Refused as refusal:
            logger.warning("poll refused: %s", refusal)
            orders = []
        if not orders and time.monotonic() - started < LEAST_POLL_SECONDS:
            await asyncio.sleep(LEAST_POLL_SECONDS)
        return orders

    def _accept(self, order: Order) -> bool:
        is_new = self._spool.accept_order(order.order_id)
        if not is_new:
            self._spool.report_again(order.order_id)
            self._has_results.set()
        return is_new

    async def execute(self, order: Order) -> None:
        """Execute an order and keep its result; one that is cancelled by the server ends where it is."""
        try:
            if order.action.name == CANCEL_ACTION:
                result = await self._handle(order, self._cancel)
            else:
                async with self._slots:
                    result = await self._handle(order, self._handlers.get(order.action.name))
        except asyncio.CancelledError:
            if order.order_id in self._running:  # the agent is stopping
                raise
            result = Result(RESULT_FAILURE, "cancelled")
        self._running.pop(order.order_id, None)
        await until_done(Health("keeping a result"), partial(self._keep, order, result))

    async def _keep(self, order: Order, result: Result) -> None:
        self._spool.finish_order(order.order_id, result)
        self._has_results.set()

    async def _cancel(self, order: Order) -> Result:
        """End what an order names, unless it has ended already; no slot is needed, as those may all be taken."""
        named = msgspec.json.decode(order.action.args, type=CancelArguments)
        meant = {str(named.request_id), str(named.order_id)}
        ended = [order_id for order_id, (other, _) in self._running.items() if meant & {other.request_id, order_id}]
        for order_id in ended:
            self._running.pop(order_id)[1].cancel()
        return success("cancelled" if ended else "nothing of it was under way", {"orders": ended})

    async def _handle(self, order: Order, handler: Handler | None) -> Result:
        if handler is None:
            return Result(RESULT_FAILURE, f"this agent has no action {order.action.name!r}")
        try:
            async with asyncio.timeout(HANDLER_SECONDS):
                return await handler(order)
        except TimeoutError:
            return Result(RESULT_TIMEOUT, f"not finished after {HANDLER_SECONDS:g} seconds")
        except Exception as error:
            logger.exception("order %s failed", order.order_id)
            return Result(RESULT_FAILURE, f"{type(error).__name__}: {error}")

    async def _report(self) -> None:
        await self._has_results.wait()
        while await self.report_batch():
            pass
        self._has_results.clear()

    async def report_batch(self) -> bool:
        """Report results that are due; return whether there were any."""
        due = self._spool.unreported(self._reports_maximum)
        if not due:
            return False
        call = Call("POST", "/commands/results", msgspec.json.encode(OrderResults(due)))
        try:
            answer = await self._session.ask(call, ReportOutcomes)
        except Refused as refusal:
            self._refused(due, refusal)
            return True
        self._reports_maximum = REPORTS_PER_REQUEST
        told = {outcome.order_id: outcome.result for outcome in answer.results}
        self._spool.settle_results({report.order_id: told.get(report.order_id, "unanswered") for report in due})
        return True

    def _refused(self, due: list[OrderResult], refusal: Refused) -> None:
        logger.error("%d results refused: %s", len(due), refusal)
        self._reports_maximum = max(1, len(due) // 2)
        if len(due) == 1:  # it can never be reported
            self._spool.settle_results({due[0].order_id: "refused"})
