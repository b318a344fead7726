"""Send what waits in the spool, batch by batch; it leaves the spool when the server has answered for it."""

import asyncio
import logging
from collections.abc import Callable

import msgspec

from comms_api.client.spool.batches import BATCH_BYTES_MAXIMUM, BATCH_ITEMS_MAXIMUM
from comms_api.client.spool.model import Change, Line
from comms_api.client.spool.spool import Spool
from comms_api.client.transport.bodies import stateful_body, stateless_body
from comms_api.client.transport.session import Call, Refused, Session
from comms_api.errors import CommsError
from comms_api.protocol import AgentMetadata, ItemResult, ItemResults

logger = logging.getLogger(__name__)

_CONFLICT, _GONE, _FIRST_ERROR = 409, 404, 300


async def wait_for(event: asyncio.Event, seconds: float) -> bool:
    """Wait until the event is set, and clear it, or until the time is over; return whether it was set."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    event.clear()
    return True


class _Sender:
    """What both senders need, and the size of the next batch: half after a refusal, twice after a success."""

    def __init__(self, session: Session, spool: Spool, metadata: Callable[[], AgentMetadata]) -> None:
        """Take what tells of the agent at the time of a batch."""
        self._session = session
        self._spool = spool
        self._metadata = metadata
        self._items_maximum = BATCH_ITEMS_MAXIMUM

    def _accepted(self) -> None:
        self._items_maximum = min(BATCH_ITEMS_MAXIMUM, 2 * self._items_maximum)

    def _refused(self, items: int, refusal: Refused) -> bool:
        """Note a refusal; return whether it is of a single item, which then can never be sent."""
        logger.error("a batch of %d is refused: %s", items, refusal)
        self._items_maximum = max(1, items // 2)
        return items == 1


class LineSender(_Sender):
    """Sends stateless events."""

    def __init__(self, session: Session, spool: Spool, metadata: Callable[[], AgentMetadata]) -> None:
        """Take what tells of the agent at the time of a batch."""
        super().__init__(session, spool, metadata)
        self._is_due = asyncio.Event()
        self._has_settled = asyncio.Event()

    async def drain_and_wait(self, batch_seconds: float) -> None:
        """Send all waiting items, and return after `batch_seconds` or as soon as a batch is full."""
        await self.drain()
        await wait_for(self._is_due, batch_seconds)

    async def make_room(self, bytes_maximum: int, seconds: float) -> None:
        """Have a full batch sent, and hold the collector when the spool runs full.

        A log file keeps its lines by itself: while the server takes events, none need be dropped. When it does not, the
        collector goes on every `seconds`, and what is over the bound is dropped and counted.
        """
        if self._spool.has_full_batch():
            self._is_due.set()
        while self._spool.waiting_bytes > bytes_maximum // 2:
            self._is_due.set()
            if not await wait_for(self._has_settled, seconds) and self._session.is_failing:
                break
        await asyncio.sleep(0)

    async def drain(self) -> None:
        """Send everything that waits."""
        while lines := self._spool.next_lines(self._items_maximum, BATCH_BYTES_MAXIMUM):
            await self._send(lines)

    async def _send(self, lines: list[Line]) -> None:
        try:
            await self._session.send(Call("POST", "/events/stateless", stateless_body(self._metadata(), lines)))
        except Refused as refusal:
            if self._refused(len(lines), refusal):
                self._spool.settle_lines(lines, sent=False)
        else:
            self._accepted()
            self._spool.settle_lines(lines, sent=True)
        self._has_settled.set()


class ChangeSender(_Sender):
    """Sends changes of states.

    Batches are numbered, and the server refuses one that is older than a batch it has applied. An agent that still
    waits for that answer has an outdated memory: its data folder was restored from a backup, or copied.
    """

    def __init__(self, session: Session, spool: Spool, metadata: Callable[[], AgentMetadata]) -> None:
        """Start without knowing of newer batches; `metadata` describes the agent at the time of a batch."""
        super().__init__(session, spool, metadata)
        self._has_started_over = False

    async def drain(self) -> None:
        """Send everything that waits."""
        while changes := self._spool.next_changes(self._items_maximum, BATCH_BYTES_MAXIMUM):
            await self._send(changes)

    async def _send(self, changes: list[Change]) -> None:
        body = stateful_body(self._metadata(), changes)
        call = Call("POST", "/events/stateful", body, sequence=self._spool.next_sequence())
        try:
            answer = await self._session.ask(call, ItemResults)
        except Refused as refusal:
            if refusal.latest_sequence is not None:
                self._catch_up(refusal.latest_sequence)
            elif self._refused(len(changes), refusal):
                self._spool.settle_changes(changes, 1, [])
        else:
            self._accepted()
            self._settle(changes, answer.results)

    def _catch_up(self, latest: int) -> None:
        """Continue from the server's number and collect everything again, but only once: two copies would loop."""
        if self._has_started_over:
            logger.error("another agent uses this identity: batch %d is not ours", latest)
            self._spool.skip_sequences(latest)
        else:
            logger.warning("batch %d is newer than this data folder: collecting all states again", latest)
            self._spool.start_states_over(latest)
            self._has_started_over = True

    def _settle(self, changes: list[Change], results: list[ItemResult]) -> None:
        if len(results) != len(changes):
            raise CommsError(f"the server answered {len(results)} of {len(changes)} changes")
        pairs = list(zip(changes, results, strict=True))
        # The server has it already, from before we lost our memory: say what it is now.
        existing = [change for change, result in pairs if _exists(change, result)]
        again = [msgspec.structs.replace(change, operation="update") for change in existing]
        refused = [result for change, result in pairs if _is_refused(change, result)]
        for result in refused:
            logger.error("state %s refused: %s", result.id, result.result)
        self._spool.settle_changes(changes, len(refused), again)


def _exists(change: Change, result: ItemResult) -> bool:
    return change.operation == "create" and result.status == _CONFLICT


def _is_refused(change: Change, result: ItemResult) -> bool:
    is_gone = change.operation == "delete" and result.status == _GONE
    return result.status >= _FIRST_ERROR and not is_gone and not _exists(change, result)
