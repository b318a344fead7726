"""Execute orders, each once: remembered before it is begun, its result before it is reported."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

import msgspec

from comms_api.client.session import REQUEST_SECONDS, Session
from comms_api.client.spool import Spool
from comms_api.protocol import (
    RESULT_FAILURE,
    RESULT_SUCCESS,
    RESULT_TIMEOUT,
    RESULT_UNKNOWN,
    Order,
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
UNREACHABLE_SECONDS = 1.0


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

    async def run(self) -> None:
        """Poll, execute and report until cancelled."""
        abandoned = Result(RESULT_UNKNOWN, "the agent was restarted while it executed this order")
        self._spool.abandon_orders(abandoned)
        self._has_results.set()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._report())
            while True:
                for order in await self.poll(self._wait_seconds):
                    self._accept(order, tasks)

    async def poll(self, wait_seconds: float) -> list[Order]:
        """Return the orders that the server has for us, waiting up to `wait_seconds` for the first."""
        path = f"/commands?wait={wait_seconds:g}"
        answer = await self._session.send("GET", path, timeout_seconds=wait_seconds + REQUEST_SECONDS)
        if not answer.is_success:
            logger.error("poll refused with status %d", answer.status_code)
            await asyncio.sleep(UNREACHABLE_SECONDS)
            return []
        return msgspec.json.decode(answer.content, type=Orders).commands

    def _accept(self, order: Order, tasks: asyncio.TaskGroup) -> None:
        if self._spool.accept_order(order.order_id):
            tasks.create_task(self.execute(order))
        else:
            self._spool.report_again(order.order_id)
            self._has_results.set()

    async def execute(self, order: Order) -> None:
        """Execute an order and keep its result."""
        async with self._slots:
            result = await self._handle(order)
        self._spool.finish_order(order.order_id, result)
        self._has_results.set()

    async def _handle(self, order: Order) -> Result:
        handler = self._handlers.get(order.action.name)
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
        while True:
            await self._has_results.wait()
            self._has_results.clear()
            while await self.report_batch():
                pass

    async def report_batch(self) -> bool:
        """Report results that are due; return whether there were any."""
        due = self._spool.unreported(REPORTS_PER_REQUEST)
        if not due:
            return False
        answer = await self._session.send("POST", "/commands/results", msgspec.json.encode(OrderResults(due)))
        if answer.is_success:
            told = msgspec.json.decode(answer.content, type=ReportOutcomes).results
            self._spool.settle_results({outcome.order_id: outcome.result for outcome in told})
        else:
            logger.error("results refused with status %d, given up", answer.status_code)
            self._spool.settle_results({result.order_id: "refused" for result in due})
        return True
