"""Send the waiting items of the spool in batches; items leave the spool when the server has answered for them.

Until then, a batch is sent again with the same idempotency key and the same body, so the server stores it once.
"""

import asyncio
import logging
from collections.abc import Callable

import msgspec

from comms_api.client.spool.batches import BATCH_BYTES_MAXIMUM, BATCH_ITEMS_MAXIMUM
from comms_api.client.spool.model import Change, Line
from comms_api.client.spool.thread import SpoolThread
from comms_api.client.supervise import wait_for_event
from comms_api.client.transport.bodies import stateful_body, stateless_body
from comms_api.client.transport.calls import Call, Refused
from comms_api.client.transport.session import Session
from comms_api.errors import CommsError
from comms_api.protocol import AgentMetadata, ItemResult, ItemResults

logger = logging.getLogger(__name__)

_CONFLICT, _GONE, _FIRST_ERROR = 409, 404, 300


class _BatchSize:
    """The maximum number of items in the next batch; it halves after a refusal, and doubles after a success."""

    def __init__(self) -> None:
        self.items = BATCH_ITEMS_MAXIMUM

    def grow(self) -> None:
        """Allow more items after a batch was accepted."""
        self.items = min(BATCH_ITEMS_MAXIMUM, 2 * self.items)

    def shrink(self, items: int, refusal: Refused) -> bool:
        """Log the refusal of a batch; return whether it had a single item, which can then never be sent."""
        logger.error("a batch of %d is refused: %s", items, refusal)
        if refusal.is_key_reused:  # it is sent again under another key: perhaps twice, but not lost
            return False
        self.items = max(1, items // 2)
        return items == 1


class LineSender:
    """Sends stateless events; `metadata` describes the agent at the time of a batch, in the spool's thread."""

    def __init__(self, session: Session, spool: SpoolThread, metadata: Callable[[], AgentMetadata]) -> None:
        self._session = session
        self._spool = spool
        self._queue = spool.file.lines
        self._metadata = metadata
        self._size = _BatchSize()
        self._is_due = asyncio.Event()
        self._has_settled = asyncio.Event()

    async def drain_and_wait(self, batch_seconds: float) -> None:
        """Send all waiting lines, then wait for `batch_seconds` or until a batch is full."""
        await self.drain()
        await wait_for_event(self._is_due, batch_seconds)

    async def make_room(self, bytes_maximum: int, seconds: float) -> None:
        """Have a full batch sent, and wait while the spool is more than half full.

        The lines wait in the log file, so nothing is dropped while the server accepts events. If it does not, return
        after `seconds`: the collector continues, and the spool drops and counts the lines beyond its limit.
        """
        if self._queue.has_full_batch():
            self._is_due.set()
        while self._queue.waiting_bytes > bytes_maximum // 2:
            self._is_due.set()
            if not await wait_for_event(self._has_settled, seconds) and self._session.is_failing:
                break
        await asyncio.sleep(0)

    async def drain(self) -> None:
        """Send all waiting lines."""
        while lines := await self._spool.run(self._queue.next_batch, self._size.items, BATCH_BYTES_MAXIMUM):
            await self._send(lines)

    async def _send(self, lines: list[Line]) -> None:
        batch = await self._spool.run(self._queue.open_batch, lines, self._metadata)
        body = stateless_body(bytes(batch.metadata), lines)
        try:
            await self._session.send(Call("POST", "/events/stateless", body, key=batch.key))
        except Refused as refusal:
            await self._spool.run(self._queue.close_batch)
            if self._size.shrink(len(lines), refusal):
                await self._spool.run(self._queue.settle, lines, sent=False)
        else:
            self._size.grow()
            await self._spool.run(self._queue.settle, lines, sent=True)
        self._has_settled.set()


class ChangeSender:
    """Sends changes of states; `metadata` describes the agent at the time of a batch, in the spool's thread.

    Batches are numbered, and the server refuses one that is older than a batch it has applied. An agent that gets this
    refusal has an outdated spool: its data folder was restored from a backup, or copied.
    """

    def __init__(self, session: Session, spool: SpoolThread, metadata: Callable[[], AgentMetadata]) -> None:
        self._session = session
        self._spool = spool
        self._queue = spool.file.changes
        self._metadata = metadata
        self._size = _BatchSize()
        self._has_started_over = False

    async def drain(self) -> None:
        """Send all waiting changes."""
        while changes := await self._spool.run(self._queue.next_batch, self._size.items, BATCH_BYTES_MAXIMUM):
            await self._send(changes)

    async def _send(self, changes: list[Change]) -> None:
        batch = await self._spool.run(self._queue.open_batch, changes, self._metadata)
        body = stateful_body(bytes(batch.metadata), changes)
        call = Call("POST", "/events/stateful", body, sequence=batch.sequence, key=batch.key)
        try:
            answer = await self._session.ask(call, ItemResults)
        except Refused as refusal:
            await self._spool.run(self._queue.close_batch)
            if refusal.latest_sequence is not None:
                await self._catch_up(refusal.latest_sequence)
            elif self._size.shrink(len(changes), refusal):
                await self._spool.run(self._queue.settle, changes, 1, [])
        else:
            self._size.grow()
            await self._settle(changes, answer.results)

    async def _catch_up(self, latest: int) -> None:
        """Continue from the server's number and collect everything again, but only once: two copies would loop."""
        if self._has_started_over:
            logger.error("another agent uses this identity: batch %d is not ours", latest)
            await self._spool.run(self._queue.skip_sequences, latest)
        else:
            logger.warning("batch %d is newer than this data folder: collecting all states again", latest)
            await self._spool.run(self._queue.start_over, latest)
            self._has_started_over = True

    async def _settle(self, changes: list[Change], results: list[ItemResult]) -> None:
        if len(results) != len(changes):
            raise CommsError(f"the server answered {len(results)} of {len(changes)} changes")
        pairs = list(zip(changes, results, strict=True))
        # The server has these states from before the agent lost its spool: send their current content as an update.
        existing = [change for change, result in pairs if _exists(change, result)]
        again = [msgspec.structs.replace(change, operation="update") for change in existing]
        refused = [result for change, result in pairs if _is_refused(change, result)]
        for result in refused:
            logger.error("state %s refused: %s", result.id, result.result)
        await self._spool.run(self._queue.settle, changes, len(refused), again)


def _exists(change: Change, result: ItemResult) -> bool:
    return change.operation == "create" and result.status == _CONFLICT


def _is_refused(change: Change, result: ItemResult) -> bool:
    is_gone = change.operation == "delete" and result.status == _GONE
    return result.status >= _FIRST_ERROR and not is_gone and not _exists(change, result)
