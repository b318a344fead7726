"""One agent: its collectors, its senders and its poll run side by side."""

import asyncio
import fcntl
import logging
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from comms_api import __version__
from comms_api.client.enroll import ensure_enrolled, take_new_identity
from comms_api.client.host import this_host
from comms_api.client.inventory.collectors import COLLECTORS, Documents
from comms_api.client.inventory.scan import MODULE, Scan, difference
from comms_api.client.log_files.follower import Follower
from comms_api.client.options import Options
from comms_api.client.orders.configuration import Configuration
from comms_api.client.orders.handlers import Handlers
from comms_api.client.orders.loop import OrderLoop
from comms_api.client.orders.trust import Trust
from comms_api.client.spool.model import Identity
from comms_api.client.spool.thread import SpoolThread
from comms_api.client.supervise import Health, keep_going, wait_for_event
from comms_api.client.threads import Background, Worker, within
from comms_api.client.transport.endpoint import Endpoint
from comms_api.client.transport.senders import ChangeSender, LineSender
from comms_api.client.transport.servers import Servers
from comms_api.client.transport.session import IdentityInUse, Session
from comms_api.client.transport.srv import SrvRecords
from comms_api.errors import CommsError, ConfigurationError
from comms_api.protocol import AgentMetadata

logger = logging.getLogger(__name__)

FOLLOW_SECONDS = 0.5
STATISTICS_SECONDS = 0.5
WALK_SECONDS = 60.0
READ_SECONDS = 60.0
LAST_STATISTICS_SECONDS = 5.0
WALK_PAUSE_RATIO = 10


class Agent:
    """Runs the collectors, the senders and the poll of one agent."""

    def __init__(
        self, options: Options, spool: SpoolThread, identity: Identity, servers: Servers, session: Session
    ) -> None:
        self._options = options
        self._spool = spool
        self._identity = identity
        self._servers = servers
        self._follower = Follower(options.log_files, spool, from_start=options.from_start)
        self._reader = Worker("log files")
        self._written_statistics = b""
        self._paths: list[str] = []
        self._next_walk_at = 0.0
        self._walks, self._walk_health = Background(), Health("finding log files")
        self._scans = [Scan(name, collect) for name, collect in COLLECTORS.items()]
        self._is_scan_due = asyncio.Event()
        configuration = Configuration(session, options.data_dir / "files")
        self._handlers = Handlers(spool, configuration, self._is_scan_due.set, session.rotate_key)
        self._lines = LineSender(session, spool, self._metadata)
        self._changes = ChangeSender(session, spool, self._metadata)
        trust = Trust(options.trusted_keys, identity.id)
        self._orders = OrderLoop(session, spool, self._handlers.by_action(), trust, options.wait_seconds)

    async def run(self) -> None:
        """Collect, send, poll and execute: once with the option `once`, otherwise until cancelled."""
        try:
            await (self._run_once() if self._options.once else self._run())
        finally:
            self._reader.end(self._follower.close)
            try:
                await within(LAST_STATISTICS_SECONDS, self._spool.run(self._write_statistics))
            except (OSError, sqlite3.Error) as error:
                logger.warning("cannot write the last statistics: %s", error)

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            send_lines = partial(self._lines.drain_and_wait, self._options.batch_seconds)
            tasks.create_task(keep_going("following log files", self._follow_and_wait))
            tasks.create_task(keep_going("sending events", send_lines))
            tasks.create_task(keep_going("the inventory", self._scan_and_wait))
            tasks.create_task(keep_going("writing statistics", self._write_statistics_and_wait))
            tasks.create_task(keep_going("choosing a server", self._servers.wait_and_check))
            tasks.create_task(self._orders.run())

    async def _run_once(self) -> None:
        async for _ in self._collect():
            if self._spool.file.lines.has_full_batch():
                await self._lines.drain()
        await self._lines.drain()
        await self._scan()
        await self._orders.run_once()

    async def _follow_and_wait(self) -> None:
        async for _ in self._collect():
            await self._lines.make_room(self._options.spool_bytes, self._options.batch_seconds)
        await asyncio.sleep(min(FOLLOW_SECONDS, self._options.batch_seconds))

    async def _collect(self) -> AsyncIterator[int]:
        """Store new lines, piece by piece, in a thread: a slow disk or a huge file holds nothing else."""
        pieces = self._follower.collect(await self._find_paths())
        while (lines := await within(READ_SECONDS, self._reader.run(next, pieces, None))) is not None:
            yield lines

    async def _find_paths(self) -> list[str]:
        """Return the current log files, or the last result while a folder hangs.

        Searching takes at most a tenth of the time: after a long walk, the next one comes later.
        """
        started = time.monotonic()
        if started < self._next_walk_at:
            return self._paths
        try:
            self._paths = await self._walks.run(self._follower.find_paths, WALK_SECONDS)
        except TimeoutError as error:
            self._walk_health.failed(error)
        else:
            self._walk_health.succeeded()
        self._next_walk_at = time.monotonic() + WALK_PAUSE_RATIO * (time.monotonic() - started)
        return self._paths

    async def _scan_and_wait(self) -> None:
        await self._scan()
        await wait_for_event(self._is_scan_due, self._options.scan_interval_seconds)

    async def _scan(self) -> None:
        await self._changes.drain()  # while changes wait, collect no more: their number stays bounded
        for scan in self._scans if self._options.inventory else ():
            current = await scan.run()
            if current is not None:
                await self._spool.run(self._store_changes, scan.name, current)
        await self._changes.drain()

    def _store_changes(self, collector: str, current: Documents) -> None:
        changes = self._spool.file.changes
        changes.add(difference(collector, changes.known(MODULE, collector), current))

    def _metadata(self) -> AgentMetadata:
        return AgentMetadata(
            id=self._identity.id,
            name=self._options.name,
            groups=self._handlers.groups(),
            type="reference",
            version=__version__,
            host=this_host(),
        )

    async def _write_statistics_and_wait(self) -> None:
        await self._spool.run(self._write_statistics)
        await asyncio.sleep(STATISTICS_SECONDS)

    def _write_statistics(self) -> None:
        content = msgspec.json.encode(self._spool.file.statistics())
        if content == self._written_statistics:
            return
        path = self._options.data_dir / "statistics.json"
        draft = path.with_suffix(".new")
        draft.write_bytes(content)
        draft.replace(path)
        self._written_statistics = content


async def run_agent(options: Options, stopping: asyncio.Event) -> None:
    """Run an agent until `stopping` is set. Unsent items stay in the spool for the next start.

    Raises `CommsError` for every error that ends the agent but is not a bug.
    """
    try:
        with (
            _folder_for_one(options.data_dir),
            closing(SpoolThread(options.data_dir / "spool.sqlite", options.spool_bytes)) as spool,
        ):
            await _until(stopping, _enroll_and_run(options, spool))
    except (OSError, sqlite3.Error) as error:
        raise CommsError(f"{options.data_dir}: {error}") from error


async def _enroll_and_run(options: Options, spool: SpoolThread) -> None:
    """Run the agent; whenever the server says that an older process uses its identity, enroll it again as a new one."""
    while True:
        try:
            await _run_enrolled(options, spool)
        except (IdentityInUse, BaseExceptionGroup) as error:
            if not isinstance(_first(error), IdentityInUse):
                raise
            logger.warning("another process uses this identity: taking a new one and enrolling again")
            options = await take_new_identity(options, spool)
        else:
            return


async def _run_enrolled(options: Options, spool: SpoolThread) -> None:
    find = None if options.srv is None else partial(_find_endpoints, options, SrvRecords(options.srv, spool))
    endpoints = [options.endpoint(url) for url in options.urls] if find is None else await find()
    identity = await ensure_enrolled(options, spool, endpoints)
    async with Servers(endpoints, identity.id, spool, options.return_seconds, find) as servers:
        session = Session(servers, identity, spool)
        if identity.is_external:  # from now on the agent uses the id that the server gave it
            identity = msgspec.structs.replace(identity, id=await session.learn_id(), is_external=False)
            await spool.run(spool.file.remember_identity, identity)
        await Agent(options, spool, identity, servers, session).run()


async def _find_endpoints(options: Options, records: SrvRecords) -> list[Endpoint]:
    return [options.endpoint(record.url, record.priority, record.weight) for record in await records.find()]


@contextmanager
def _folder_for_one(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise ConfigurationError(f"another agent runs in {folder}") from None
    finally:
        os.close(descriptor)


async def _until(stopping: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    working = asyncio.create_task(work)
    stopped = asyncio.create_task(stopping.wait())
    await asyncio.wait([working, stopped], return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if stopping.is_set():
        working.cancel()
    try:
        await working
    except asyncio.CancelledError:
        logger.info("stopped")
    except BaseExceptionGroup as group:
        raise _first(group) from group


def _first(error: BaseException) -> BaseException:
    """Return the error that ended the other tasks."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
