"""Run blocking calls in daemon threads, so that a hanging call delays neither the event loop nor the agent's exit."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Any, ParamSpec, TypeVar

logger = logging.getLogger(__name__)

Parameters = ParamSpec("Parameters")
Answer = TypeVar("Answer")

END_SECONDS = 5.0


class Worker:
    """One thread that makes calls one after another. If a caller is cancelled, a call that waits is not made."""

    def __init__(self, name: str) -> None:
        self._calls: SimpleQueue[Callable[[], None]] = SimpleQueue()
        Thread(target=self._work, name=name, daemon=True).start()

    async def run(
        self, call: Callable[Parameters, Answer], *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> Answer:
        """Make a call and return its result."""
        return await asyncio.wrap_future(self._submit(partial(call, *args, **kwargs)))

    def wait(self, call: Callable[Parameters, Answer], *args: Parameters.args, **kwargs: Parameters.kwargs) -> Answer:
        """Make a call and return its result; for other threads, since it blocks."""
        return self._submit(partial(call, *args, **kwargs)).result()

    def later(self, call: Callable[Parameters, object], *args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
        """Make a call that nobody waits for; a failure is logged."""
        self._submit(partial(call, *args, **kwargs)).add_done_callback(_log_failure)

    def end(self, last: Callable[[], object]) -> None:
        """Make a last call and end the thread. If a call hangs, return without it after `END_SECONDS`."""
        future = self._submit(last)
        self._calls.put(_exit)
        try:
            future.result(END_SECONDS)
        except TimeoutError:
            logger.warning("a call hangs; the agent ends without it")

    def _submit(self, call: Callable[[], Answer]) -> Future[Answer]:
        future: Future[Answer] = Future()
        self._calls.put(partial(_settle, future, call))
        return future

    def _work(self) -> None:
        while (call := self._calls.get()) is not _exit:
            call()


class Background:
    """Runs one blocking call at a time, each in a new thread."""

    def __init__(self) -> None:
        self._last: Future[Any] | None = None

    async def run(self, function: Callable[[], Answer], seconds: float) -> Answer:
        """Call a function; raises `TimeoutError` after `seconds`, and at once while an earlier call hangs."""
        if self._last is not None and not self._last.done():
            raise TimeoutError("the previous attempt has not ended yet")
        future: Future[Answer] = Future()
        self._last = future
        Thread(target=_settle, args=(future, function), daemon=True).start()
        return await within(seconds, asyncio.wrap_future(future))


async def within(seconds: float, result: Awaitable[Answer]) -> Answer:
    """Return a result; raises `TimeoutError`, with a text, if there is none after `seconds`."""
    try:
        async with asyncio.timeout(seconds) as limit:
            return await result
    except TimeoutError:
        if limit.expired():
            raise TimeoutError(f"no result within {seconds:g} seconds") from None
        raise


def _settle(future: Future[Answer], call: Callable[[], Answer]) -> None:
    if future.set_running_or_notify_cancel():
        try:
            future.set_result(call())
        except Exception as error:  # noqa: BLE001 - the caller receives it
            future.set_exception(error)


def _log_failure(future: Future[Any]) -> None:
    if error := future.exception():
        logger.warning("a call failed: %s: %s", type(error).__name__, error)


def _exit() -> None:
    """End the thread of a worker."""
