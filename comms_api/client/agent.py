"""One agent: its collectors, its senders and its poll, side by side."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from comms_api.client.batches import BATCH_ITEMS_MAXIMUM, stateful_body, stateless_body, within_bytes
from comms_api.client.enroll import ensure_enrolled, this_host
from comms_api.client.follow import Follower
from comms_api.client.inventory import COLLECTORS, MODULE, difference
from comms_api.client.model import Change, Identity, Line, Options
from comms_api.client.orders import Handler, OrderLoop, success
from comms_api.client.session import Session
from comms_api.client.spool import Spool
from comms_api.protocol import AgentMetadata, ItemResults, Order, Result

logger = logging.getLogger(__name__)

STATISTICS_SECONDS = 0.5
TOO_LARGE = 413

Item = TypeVar("Item", Line, Change)


class _SetGroup(msgspec.Struct, frozen=True):
    groups: tuple[str, ...]


class Agent:
    """The reference agent."""

    def __init__(self, options: Options, spool: Spool, identity: Identity, session: Session) -> None:
        """Take who it is and how it runs."""
        self._options = options
        self._spool = spool
        self._identity = identity
        self._session = session
        self._follower = Follower(options.log_files, spool, from_start=options.from_start)
        self._scan_wanted = asyncio.Event()
        self._orders = OrderLoop(session, spool, self._handlers(), options.wait_seconds)

    async def run(self) -> None:
        """Collect, send, poll and execute until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._every(self._options.batch_seconds, self._follow_and_send))
                tasks.create_task(self._every(STATISTICS_SECONDS, self._write_statistics))
                tasks.create_task(self._keep_scanning())
                tasks.create_task(self._orders.run())
        finally:
            self._follower.close()
            await self._write_statistics()

    async def run_once(self) -> None:
        """Collect and send everything, execute what waits, and report."""
        await self._follow_and_send()
        await self._scan()
        for order in await self._orders.poll(0):
            if self._spool.accept_order(order.order_id):
                await self._orders.execute(order)
        while await self._orders.report_batch():
            pass
        self._follower.close()
        await self._write_statistics()

    async def _every(self, seconds: float, act: Callable[[], Awaitable[None]]) -> None:
        while True:
            await act()
            await asyncio.sleep(seconds)

    async def _keep_scanning(self) -> None:
        while True:
            await self._scan()
            try:
                async with asyncio.timeout(self._options.scan_interval_seconds):
                    await self._scan_wanted.wait()
            except TimeoutError:
                pass
            self._scan_wanted.clear()

    # -- stateless

    async def _follow_and_send(self) -> None:
        self._follower.collect()
        while lines := self._spool.next_lines(BATCH_ITEMS_MAXIMUM):
            await self._send_lines(lines[: within_bytes([len(line.event) for line in lines])])

    async def _send_lines(self, lines: list[Line]) -> None:
        answer = await self._session.send("POST", "/events/stateless", stateless_body(self._metadata(), lines))
        if answer.status_code == TOO_LARGE and len(lines) > 1:
            await self._send_lines(lines[: len(lines) // 2])
            return
        if not answer.is_success:
            logger.error("%d events refused with status %d: %s", len(lines), answer.status_code, answer.text[:200])
        self._spool.settle_lines(lines, sent=answer.is_success)

    # -- stateful

    async def _scan(self) -> None:
        await self._send_changes()
        if self._options.inventory:
            for collector, collect in COLLECTORS.items():
                current = await asyncio.to_thread(collect)
                self._spool.add_changes(difference(collector, self._spool.known(MODULE, collector), current))
        await self._send_changes()

    async def _send_changes(self) -> None:
        while changes := self._spool.next_changes(BATCH_ITEMS_MAXIMUM):
            await self._send_batch(changes[: within_bytes([len(change.data or b"") + 200 for change in changes])])

    async def _send_batch(self, changes: list[Change]) -> None:
        answer = await self._session.send("POST", "/events/stateful", stateful_body(self._metadata(), changes))
        if answer.is_success:
            self._settle(changes, msgspec.json.decode(answer.content, type=ItemResults))
        elif answer.status_code == TOO_LARGE and len(changes) > 1:
            await self._send_batch(changes[: len(changes) // 2])
        else:
            logger.error("%d changes refused with status %d", len(changes), answer.status_code)
            self._spool.settle_changes(changes, len(changes), [])

    def _settle(self, changes: list[Change], answer: ItemResults) -> None:
        pairs = list(zip(changes, answer.results, strict=True))
        # The server has it already, from before we lost our memory: say what it is now.
        again = [
            msgspec.structs.replace(change, operation="update")
            for change, result in pairs
            if (change.operation, result.status) == ("create", 409)
        ]
        settled = {("create", 409), ("delete", 404)}
        refused = [
            result
            for change, result in pairs
            if result.status >= 300 and (change.operation, result.status) not in settled  # noqa: PLR2004
        ]
        for result in refused:
            logger.error("state %s refused: %s", result.id, result.result)
        self._spool.settle_changes(changes, len(refused), again)

    def _metadata(self) -> AgentMetadata:
        return AgentMetadata(
            id=str(self._identity.id),
            name=self._options.name,
            groups=self._groups(),
            type="reference",
            version="0.1.0",
            host=this_host(),
        )

    def _groups(self) -> tuple[str, ...]:
        fact = self._spool.find_fact("groups")
        return () if fact is None else msgspec.json.decode(fact, type=tuple[str, ...])

    # -- orders

    def _handlers(self) -> dict[str, Handler]:
        return {
            "ping": self._ping,
            "restart": self._restart,
            "fetch-config": self._fetch_config,
            "set-group": self._set_group,
            "refresh-inventory": self._restart,
        }

    async def _ping(self, order: Order) -> Result:
        return success("pong", {"args": order.action.args, "host": this_host().hostname})

    async def _restart(self, _order: Order) -> Result:
        self._scan_wanted.set()
        return success("collecting anew")

    async def _fetch_config(self, _order: Order) -> Result:
        return success("configuration is current", {"groups": self._groups()})

    async def _set_group(self, order: Order) -> Result:
        groups = msgspec.json.decode(order.action.args, type=_SetGroup).groups
        self._spool.remember("groups", groups)
        return success("groups set", {"groups": groups})

    async def _write_statistics(self) -> None:
        path = self._options.data_dir / "statistics.json"
        draft = path.with_suffix(".new")
        draft.write_bytes(msgspec.json.encode(self._spool.statistics()))
        draft.replace(path)


async def run_agent(options: Options, stopping: asyncio.Event) -> None:
    """Be an agent until `stopping`; what is not sent by then stays in the spool for the next start."""
    spool = Spool(options.data_dir / "spool.sqlite", options.spool_bytes)
    try:
        identity = ensure_enrolled(options, spool)
        async with Session(options.url, options.ca, identity, spool) as session:
            agent = Agent(options, spool, identity, session)
            await (agent.run_once() if options.once else _until(stopping, agent))
    finally:
        spool.close()


async def _until(stopping: asyncio.Event, agent: Agent) -> None:
    running = asyncio.create_task(agent.run())
    stopped = asyncio.create_task(stopping.wait())
    await asyncio.wait([running, stopped], return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if stopping.is_set():
        running.cancel()
    try:
        await running
    except asyncio.CancelledError:
        logger.info("stopped")
    except BaseExceptionGroup as group:
        raise _first(group) from group


def _first(error: BaseException) -> BaseException:
    """Return the one fault that ended the others."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
