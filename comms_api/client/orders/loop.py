"""Poll for orders, execute each once, and report the results.

An order is recorded before it is executed, and its result before it is reported.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TypeAlias

import msgspec

from comms_api.client.orders.trust import Admitted, Trust, Untrusted
from comms_api.client.spool.thread import SpoolThread
from comms_api.client.supervise import Health, keep_going, until_done
from comms_api.client.transport.calls import Call, Refused
from comms_api.client.transport.session import Session
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
    Rejection,
    ReportOutcomes,
    Result,
)

logger = logging.getLogger(__name__)

Handler: TypeAlias = Callable[[Order], Awaitable[Result]]
"""Executes one kind of action. An exception is reported as a failure of the order."""

HANDLER_SECONDS = 600.0
RUNNING_MAXIMUM = 8
REPORTS_PER_REQUEST = 500
POLL_GRACE_SECONDS = 30.0
"""The time after `wait_seconds` within which the answer to a poll must begin."""
LEAST_POLL_SECONDS = 1.0
"""The pause after an empty answer that comes sooner than this, so that a failing server is not polled too often."""


def success(message: str, data: object = None) -> Result:
    """Return the result of an order that was executed."""
    return Result(RESULT_SUCCESS, message, msgspec.Raw(msgspec.json.encode(data)))


def rejection(reason: str) -> Result:
    """Return the result of an order that the agent refuses to execute."""
    return Result(RESULT_FAILURE, reason, msgspec.Raw(msgspec.json.encode(Rejection(reason))))


def _is_named(arguments: CancelArguments, running: Admitted) -> bool:
    """Return whether a cancellation names a running order: a signed one by its nonce, since its ids are not signed."""
    if running.nonce is not None:
        return running.nonce == arguments.nonce
    ids = {str(arguments.request_id), str(arguments.order_id)}
    return bool(ids & {running.order.request_id, running.order.order_id})


class OrderLoop:
    """Polls, executes the orders that arrive, and reports; `handlers` are keyed by the name of their action."""

    def __init__(
        self, session: Session, spool: SpoolThread, handlers: Mapping[str, Handler], trust: Trust, wait_seconds: float
    ) -> None:
        self._session = session
        self._trust = trust
        self._spool = spool
        self._log = spool.file.orders
        self._handlers = handlers
        self._wait_seconds = wait_seconds
        self._slots = asyncio.Semaphore(RUNNING_MAXIMUM)
        self._has_results = asyncio.Event()
        self._reports_maximum = REPORTS_PER_REQUEST
        self._running: dict[str, tuple[Admitted, asyncio.Task[None]]] = {}

    async def run(self) -> None:
        """Poll, execute and report until cancelled."""
        await self._finish_interrupted()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(keep_going("reporting results", self._report))
            await keep_going("polling", partial(self._poll_and_begin, tasks))

    async def _poll_and_begin(self, tasks: asyncio.TaskGroup) -> None:
        for order in await self._poll_paced():
            if admitted := await self._accept(order):
                self._begin(tasks, admitted)

    def _begin(self, tasks: asyncio.TaskGroup, admitted: Admitted) -> None:
        order_id = admitted.order.order_id
        task = tasks.create_task(self.execute(admitted.order))
        self._running[order_id] = admitted, task
        task.add_done_callback(lambda _: self._running.pop(order_id, None))

    async def run_once(self) -> None:
        """Execute the orders that wait at the server, and report."""
        await self._finish_interrupted()
        for order in await self.poll(0):
            if admitted := await self._accept(order):
                await self.execute(admitted.order)
        while await self.report_batch():
            pass

    async def _finish_interrupted(self) -> None:
        result = Result(RESULT_UNKNOWN, "the agent was restarted while it executed this order")
        await self._spool.run(self._log.finish_interrupted, result)
        self._has_results.set()

    async def poll(self, wait_seconds: float) -> list[Order]:
        """Return the server's orders for this agent, waiting up to `wait_seconds` for the first."""
        path = f"/commands?wait={wait_seconds:g}"
        return (await self._session.ask(Call("GET", path, None, wait_seconds + POLL_GRACE_SECONDS), Orders)).commands

    async def _poll_paced(self) -> list[Order]:
        started = time.monotonic()
        try:
            orders = await self.poll(self._wait_seconds)
        except Refused as refusal:
            logger.warning("poll refused: %s", refusal)
            orders = []
        if not orders and time.monotonic() - started < LEAST_POLL_SECONDS:
            if self._wait_seconds >= LEAST_POLL_SECONDS:
                self._session.check_server()  # a server that drains sends its agents away like this
            await asyncio.sleep(LEAST_POLL_SECONDS)
        return orders

    async def _accept(self, order: Order) -> Admitted | None:
        """Record an order, and return the form that may be executed; None if it is untrusted or was received before."""
        try:
            admitted = await self._admit(order)
            if await self._spool.run(self._log.accept, order.order_id, admitted.nonce, admitted.expires_at):
                return admitted
        except Untrusted as refusal:
            logger.warning("order %s is rejected: %s", order.order_id, refusal)
            if await self._spool.run(self._log.accept, order.order_id):
                await self._spool.run(self._log.finish, order.order_id, rejection(str(refusal)))
        await self._spool.run(self._log.report_again, order.order_id)
        self._has_results.set()
        return None

    async def _admit(self, order: Order) -> Admitted:
        admitted = self._trust.admit(order)
        if admitted.nonce is not None and await self._spool.run(self._log.has_forgotten, admitted.expires_at):
            raise Untrusted("the signed order expired, and its nonce is forgotten")
        return admitted

    async def execute(self, order: Order) -> None:
        """Execute an order and store its result. If the server cancels the order, its result is a failure."""
        try:
            if order.action.name == CANCEL_ACTION:
                result = await self._handle(order, self._cancel)
            else:
                async with self._slots:
                    result = await self._handle(order, self._handlers.get(order.action.name))
        except asyncio.CancelledError:
            if order.order_id in self._running:  # the agent stops; `_cancel` would have removed the order
                raise
            result = Result(RESULT_FAILURE, "cancelled")
        self._running.pop(order.order_id, None)
        await until_done(Health("storing a result"), partial(self._store, order, result))

    async def _store(self, order: Order, result: Result) -> None:
        await self._spool.run(self._log.finish, order.order_id, result)
        self._has_results.set()

    async def _cancel(self, order: Order) -> Result:
        """Cancel the running orders that `order` names. It takes no slot, because all slots may be in use."""
        arguments = msgspec.json.decode(order.action.args, type=CancelArguments)
        cancelled = [order_id for order_id, (other, _) in self._running.items() if _is_named(arguments, other)]
        for order_id in cancelled:
            self._running.pop(order_id)[1].cancel()
        return success("cancelled" if cancelled else "no such order is running", {"orders": cancelled})

    async def _handle(self, order: Order, handler: Handler | None) -> Result:
        if handler is None:
            return rejection(f"this agent has no action {order.action.name!r}")
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
        """Report the oldest unreported results; return whether there were any."""
        results = await self._spool.run(self._log.unreported, self._reports_maximum)
        if not results:
            return False
        call = Call("POST", "/commands/results", msgspec.json.encode(OrderResults(results)))
        try:
            answer = await self._session.ask(call, ReportOutcomes)
        except Refused as refusal:
            await self._shrink_reports(results, refusal)
            return True
        self._reports_maximum = REPORTS_PER_REQUEST
        outcomes = {outcome.order_id: outcome.result for outcome in answer.results}
        settled = {report.order_id: outcomes.get(report.order_id, "unanswered") for report in results}
        await self._spool.run(self._log.settle, settled)
        return True

    async def _shrink_reports(self, results: list[OrderResult], refusal: Refused) -> None:
        logger.error("%d results refused: %s", len(results), refusal)
        self._reports_maximum = max(1, len(results) // 2)
        if len(results) == 1:  # the server would refuse it every time
            await self._spool.run(self._log.settle, {results[0].order_id: "refused"})
