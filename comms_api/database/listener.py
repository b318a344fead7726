"""Hear PostgreSQL's notifications on one connection of its own, and come back by itself when it breaks.

A notification may be lost: whoever acts on one also acts without, now and then. After each reconnection every channel
is reported once, since anything may have been missed. It says nothing but which node has sent it: that one has told
itself at once, and does not act on it again.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from comms_api.database.connect import in_autocommit
from comms_api.database.failures import log_failure

logger = logging.getLogger(__name__)

RECONNECT_SECONDS = 0.25

Channels: TypeAlias = Mapping[str, Callable[[], None]]
"""What this node does about a notification, by its channel."""


class Listener:
    """Calls one function per channel, without arguments, whenever its notification arrives."""

    def __init__(self, engine: AsyncEngine, channels: Channels, own: str) -> None:
        """Take the channels, and the name of this node's notifier; nothing is connected before `run`."""
        self._engine = engine
        self._channels = channels
        self._own = own

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
            driver = await self._driver(connection)
            driver.add_termination_listener(lambda _connection: closed.set())
            for channel in self._channels:
                await driver.add_listener(channel, self._heard)
            try:
                for call in self._channels.values():
                    call()
                await closed.wait()
            finally:
                await connection.invalidate()  # it must not go back to the pool with its listeners

    def _heard(self, _connection: object, _pid: int, channel: str, sender: str) -> None:
        if sender != self._own:
            self._channels[channel]()

    @staticmethod
    async def _driver(connection: AsyncConnection) -> Any:
        return (await connection.get_raw_connection()).driver_connection


class Notifier:
    """Sends notifications after the commits that cause them, many callers sharing one statement.

    Inside the committing transaction NOTIFY would hold a database-wide lock across the fsync.
    """

    def __init__(self, engine: AsyncEngine, local: Channels) -> None:
        """Take what this node does itself, without waiting for its own notification."""
        self.name = secrets.token_hex(8)
        self._engine = in_autocommit(engine)
        self._local = local
        self._channels: set[str] = set()
        self._wanted = asyncio.Event()

    def notify(self, channel: str) -> None:
        """Tell this node now and the others soon, of what is committed; what gets lost, their sweeps make good."""
        if channel in self._local:
            self._local[channel]()
        self._channels.add(channel)
        self._wanted.set()

    async def run(self) -> None:
        """Send what is asked for until cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            channels, self._channels = sorted(self._channels), set()
            try:
                await self._send(channels)
            except Exception as error:  # noqa: BLE001 - it must go on notifying
                log_failure(logger, "notifications not sent, a sweep will find the work", error)

    async def _send(self, channels: list[str]) -> None:
        async with self._engine.begin() as connection:
            await connection.execute(
                text("SELECT pg_notify(channel, :sender) FROM unnest(CAST(:channels AS text[])) AS channel"),
                {"channels": channels, "sender": self.name},
            )
