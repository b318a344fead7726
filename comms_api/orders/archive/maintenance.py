"""Expire, archive and delete orders. Any node may do any of this at any time, in bounded steps."""

import asyncio
from datetime import timedelta

from sqlalchemy import text

from comms_api.database.connection import Connection, Engine
from comms_api.database.housekeeping import HOUSEKEEPING_SECONDS
from comms_api.database.partitions import drop_partitions, drop_partitions_before, ensure_partition, list_days
from comms_api.database.schema import archived_orders, finished_orders
from comms_api.database.uuid7 import uuid7_time
from comms_api.duties.repeating import Duty
from comms_api.orders.archive import chunks
from comms_api.orders.transitions import expire_orders
from comms_api.settings import Settings

DELETE_STEP = 5_000
ARCHIVE_STEP = 5_000
ARCHIVE_PAUSE_SECONDS = 0.05
"""The pause between two steps, so that archiving a large day never takes a whole core of the database."""


class Maintenance:
    """The periodic duties of orders."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._expiry_seconds = settings.expiry_interval_seconds
        self._expiry_step = settings.expiry_orders_maximum
        self._archive_days = settings.orders_archive_days
        self._retention_days = settings.orders_retention_days
        self.expired = 0
        """The number of orders that this process has expired."""

    def duties(self) -> list[Duty]:
        """Return the duties that expire, archive and delete orders."""
        return [
            Duty("expiry", self.expire, self._expiry_seconds),
            Duty("orders archive", self.archive, HOUSEKEEPING_SECONDS),
            Duty("orders retention", self.drop_history, HOUSEKEEPING_SECONDS),
        ]

    async def expire(self) -> int:
        """End every expired order and return how many."""
        total = 0
        while True:
            async with self._engine.begin() as connection:
                expired = await expire_orders(connection, self._expiry_step)
            total += expired
            self.expired += expired
            if expired < self._expiry_step:
                return total

    async def archive(self) -> int:
        """Pack the finished orders of past days, and drop the days that are empty then; one node does so at a time.

        The day of the oldest open order and all later days stay, since the order will need its partition.
        """
        async with self._engine.connect() as connection, connection.try_lock(chunks.ARCHIVE_LOCK) as is_locked:
            return await self._archive(connection) if is_locked else 0

    async def _archive(self, connection: Connection) -> int:
        oldest = await chunks.find_oldest_order(connection)
        today = await connection.scalar(text("SELECT (now() AT TIME ZONE 'UTC')::date"))
        keep_from = uuid7_time(oldest).date() if oldest else None
        limit = min(today - timedelta(days=self._archive_days), keep_from or today)
        total = 0
        for day in await list_days(self._engine, finished_orders.name):
            if day >= limit:
                break
            await ensure_partition(self._engine, archived_orders.name, day)
            packed = 1
            while packed:
                async with connection.transaction():
                    packed = await chunks.archive_orders(connection, day, ARCHIVE_STEP)
                total += packed
                await asyncio.sleep(ARCHIVE_PAUSE_SECONDS)
        # Use the same limit instead of reading the clock again: a day that has become old since then is not packed yet.
        await drop_partitions_before(self._engine, finished_orders.name, limit)
        return total

    async def drop_history(self) -> None:
        """Drop archived orders by age, and then their commands."""
        await drop_partitions(self._engine, archived_orders.name, self._retention_days)
        deleted = DELETE_STEP
        while deleted == DELETE_STEP:
            async with self._engine.begin() as connection:
                deleted = await chunks.delete_commands(connection, self._retention_days, DELETE_STEP)
