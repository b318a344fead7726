"""Hear PostgreSQL's notifications on one connection of its own, and come back by itself when it breaks.

A notification carries no data and may be lost: whoever acts on one also acts without, now and then. After each
reconnection every channel is reported once, since anything may have been missed.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from comms_api.database.failures import log_failure

logger = logging.getLogger(__name__)

RECONNECT_SECONDS = 0.25


class Listener:
    """Calls one function per channel, without arguments, whenever its notification arrives."""

    def __init__(self, engine: AsyncEngine, channels: Mapping[str, Callable[[], None]]) -> None:
        """Take the channels; nothing is connected before `run`."""
        self._engine = engine
        self._channels = channels

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

    def _heard(self, _connection: object, _pid: int, channel: str, _payload: str) -> None:
        self._channels[channel]()

    @staticmethod
    async def _driver(connection: AsyncConnection) -> Any:
        return (await connection.get_raw_connection()).driver_connection


class Notifier:
    """Sends notifications after the commits that cause them, many callers sharing one statement.

    Inside the committing transaction NOTIFY would hold a database-wide lock across the fsync.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        """Take the engine."""
        self._engine = engine
        self._channels: set[str] = set()
        self._wanted = asyncio.Event()

    def notify(self, channel: str) -> None:
        """Ask for a notification soon; one that cannot be sent is made good by the listeners' sweeps."""
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
                text("SELECT pg_notify(channel, '') FROM unnest(CAST(:channels AS text[])) AS channel"),
                {"channels": channels},
            )
