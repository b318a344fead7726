"""One agent: its collectors, its senders and its poll, side by side."""

import asyncio
import fcntl
import logging
import os
import sqlite3
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import psutil

from comms_api.client.configuration import Configuration
from comms_api.client.enroll import ensure_enrolled, this_host
from comms_api.client.follow import Follower
from comms_api.client.handlers import Handlers
from comms_api.client.inventory import COLLECTORS, MODULE, difference
from comms_api.client.model import Identity, Options
from comms_api.client.orders import OrderLoop
from comms_api.client.senders import ChangeSender, LineSender, wait_for
from comms_api.client.session import Session
from comms_api.client.spool import Spool
from comms_api.errors import CommsError, ConfigurationError
from comms_api.protocol import AgentMetadata

logger = logging.getLogger(__name__)

FOLLOW_SECONDS = 0.5
STATISTICS_SECONDS = 0.5


class Agent:
    """The reference agent."""

    def __init__(self, options: Options, spool: Spool, identity: Identity, session: Session) -> None:
        """Take who it is and how it runs."""
        self._options = options
        self._spool = spool
        self._identity = identity
        self._follower = Follower(options.log_files, spool, from_start=options.from_start)
        self._is_scan_wanted = asyncio.Event()
        configuration = Configuration(session, options.data_dir / "files")
        self._handlers = Handlers(spool, configuration, self._is_scan_wanted.set)
        self._lines = LineSender(session, spool, self._metadata)
        self._changes = ChangeSender(session, spool, self._metadata)
        self._orders = OrderLoop(session, spool, self._handlers.by_action(), options.wait_seconds)

    async def run(self) -> None:
        """Collect, send, poll and execute: until cancelled, or once if so told."""
        try:
            await (self._run_once() if self._options.once else self._run())
        finally:
            self._follower.close()
            self._write_statistics()

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_following())
            tasks.create_task(self._lines.run(self._options.batch_seconds))
            tasks.create_task(self._keep_scanning())
            tasks.create_task(self._orders.run())
            tasks.create_task(self._keep_writing_statistics())

    async def _run_once(self) -> None:
        for _ in self._follower.collect(self._follower.find_paths()):
            if self._spool.has_full_batch():
                await self._lines.drain()
        await self._lines.drain()
        await self._scan()
        await self._orders.run_once()

    async def _keep_following(self) -> None:
        while True:
            await self._follow()
            await asyncio.sleep(min(FOLLOW_SECONDS, self._options.batch_seconds))

    async def _follow(self) -> None:
        paths = await asyncio.to_thread(self._follower.find_paths)
        for _ in self._follower.collect(paths):
            await self._lines.make_room(self._options.spool_bytes, self._options.batch_seconds)

    async def _keep_scanning(self) -> None:
        while True:
            await self._scan()
            await wait_for(self._is_scan_wanted, self._options.scan_interval_seconds)

    async def _scan(self) -> None:
        await self._changes.drain()  # first, as what is found next builds on it: collection pauses meanwhile
        for collector, collect in COLLECTORS.items() if self._options.inventory else ():
            try:
                current = await asyncio.to_thread(collect)
            except (OSError, psutil.Error) as error:  # not the same as finding nothing
                logger.warning("cannot collect %s: %s", collector, error)
                continue
            self._spool.add_changes(difference(collector, self._spool.known(MODULE, collector), current))
        await self._changes.drain()

    def _metadata(self) -> AgentMetadata:
        return AgentMetadata(
            id=self._identity.id,
            name=self._options.name,
            groups=self._handlers.groups(),
            type="reference",
            version="0.1.0",
            host=this_host(),
        )

    async def _keep_writing_statistics(self) -> None:
        while True:
            self._write_statistics()
            await asyncio.sleep(STATISTICS_SECONDS)

    def _write_statistics(self) -> None:
        path = self._options.data_dir / "statistics.json"
        draft = path.with_suffix(".new")
        draft.write_bytes(msgspec.json.encode(self._spool.statistics()))
        draft.replace(path)


async def run_agent(options: Options, stopping: asyncio.Event) -> None:
    """Be an agent until `stopping`; what is not sent by then stays in the spool for the next start.

    Raises `CommsError` for everything that ends it but is no bug.
    """
    try:
        with _folder_for_one(options.data_dir), _spool(options) as spool:
            await _until(stopping, _enroll_and_run(options, spool))
    except (OSError, sqlite3.Error) as error:
        raise CommsError(f"{options.data_dir}: {error}") from error


async def _enroll_and_run(options: Options, spool: Spool) -> None:
    identity = await ensure_enrolled(options, spool)
    async with Session(options.endpoint(options.url), identity, spool) as session:
        if identity.is_external:  # from here on it goes by the id that the server has given it
            identity = msgspec.structs.replace(identity, id=await session.learn_id(), is_external=False)
            spool.remember("identity", identity)
        await Agent(options, spool, identity, session).run()


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


@contextmanager
def _spool(options: Options) -> Iterator[Spool]:
    spool = Spool(options.data_dir / "spool.sqlite", options.spool_bytes)
    try:
        yield spool
    finally:
        spool.close()


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
    """Return the one fault that ended the others."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
