"""Send PostgreSQL's notifications and receive them on one connection, which is opened again when it breaks.

A notification may be lost, so whoever acts on one also polls now and then. After each reconnection every channel's
function is called once. A payload names the node that sent it, which has already acted on it and ignores it, and, if
they are few, the ids that it is about.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable, Collection, Mapping
from typing import TypeAlias

from sqlalchemy import text

from comms_api.database.connection import Engine
from comms_api.database.failures import log_failure

logger = logging.getLogger(__name__)

RECONNECT_SECONDS = 0.25
COALESCING_SECONDS = 0.002
"""How long a notification waits for others; this node acts on it at once."""

NAMED_MAXIMUM = 100
"""The most ids in a payload (PostgreSQL allows 8,000 bytes); with more, a notification is about every id."""

About: TypeAlias = Collection[str]
"""The ids that a notification is about; none means every id."""

Channels: TypeAlias = Mapping[str, Callable[[About], None]]
"""The function to call for a notification, by its channel."""


_NOTIFY = text("""
    SELECT pg_notify(channel, payload)
    FROM unnest(CAST(:channels AS text[]), CAST(:payloads AS text[])) AS unsent (channel, payload)""")


class Listener:
    """Calls one function per channel whenever its notification arrives; ignores those of this node's `notifier`."""

    def __init__(self, engine: Engine, channels: Channels, notifier: str) -> None:
        self._engine = engine
        self._channels = channels
        self._notifier = notifier

    async def run(self) -> None:
        """Listen until cancelled."""
        while True:
            try:
                await self._listen()
            except Exception as error:  # noqa: BLE001 - it must go on listening
                log_failure(logger, "not listening, connecting again", error)
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _listen(self) -> None:
        closed = asyncio.Event()
        async with self._engine.connect() as connection:
            driver = connection.driver
            driver.add_termination_listener(lambda _connection: closed.set())
            for channel in self._channels:
                await driver.add_listener(channel, self._receive)
            try:
                for call in self._channels.values():
                    call(())
                await closed.wait()
            finally:
                driver.terminate()  # it must not go back to the pool with its listeners

    def _receive(self, _connection: object, _pid: int, channel: str, payload: str) -> None:
        sender, *about = payload.split(" ")
        if sender != self._notifier:
            self._channels[channel](about)


class Notifier:
    """Sends notifications after the commits that cause them, many callers sharing one statement.

    This node acts on each at once, by the functions of `local`.

    Inside the committing transaction NOTIFY would hold a database-wide lock across the fsync.
    """

    def __init__(self, engine: Engine, local: Channels) -> None:
        self.name = secrets.token_hex(8)
        self._engine = engine
        self._local = local
        self._unsent: dict[str, set[str]] = {}
        self._wanted = asyncio.Event()

    def notify(self, channel: str, about: About = ()) -> None:
        """Notify this node now and the others soon; the change must be committed. Their sweeps repair a loss."""
        if channel in self._local:
            self._local[channel](about)
        unsent = self._unsent.get(channel)
        if unsent is None:
            self._unsent[channel] = set(about)
        elif unsent:  # otherwise it is about every id already
            self._unsent[channel] = unsent.union(about) if about else set()
        self._wanted.set()

    async def run(self) -> None:
        """Send notifications until cancelled."""
        while True:
            await self._wanted.wait()
            await asyncio.sleep(COALESCING_SECONDS)
            self._wanted.clear()
            unsent, self._unsent = self._unsent, {}
            try:
                await self._send(unsent)
            except Exception as error:  # noqa: BLE001 - it must go on notifying
                log_failure(logger, "notifications not sent, a sweep will find the work", error)

    async def _send(self, unsent: Mapping[str, About]) -> None:
        payloads = [" ".join((self.name, *(about if len(about) <= NAMED_MAXIMUM else ()))) for about in unsent.values()]
        async with self._engine.connect() as connection:
            await connection.execute(_NOTIFY, {"channels": list(unsent), "payloads": payloads})
