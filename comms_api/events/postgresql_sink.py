"""Store events in PostgreSQL: all requests that wait share one COPY and one commit."""

from collections.abc import Sequence
from uuid import UUID

from comms_api.database.coalescing import Coalescer
from comms_api.database.connection import Engine
from comms_api.database.failures import Duplicate, MissingPartition
from comms_api.database.partitions import create_partitions, list_days
from comms_api.database.uuid7 import uuid7_time
from comms_api.duties.repeating import Duty
from comms_api.events import store
from comms_api.events.copy_format import encode_rows, read_row
from comms_api.events.model import EventRun, Quarantined
from comms_api.events.quarantine import Quarantine
from comms_api.fairness.slices import Slices

GROUP_BYTES_MAXIMUM = 2**20
"""A larger COPY stores no more per second, and its commit delays the small ones."""

SMALL_BYTES = 64 * 1024
"""Batches of up to this size have a reserved writer, so that they do not wait for large ones."""


class PostgresqlSink:
    """The table of events. Storing events again with the same ids changes nothing; refused rows are quarantined."""

    def __init__(self, engine: Engine, quarantine: Quarantine, slices: Slices) -> None:
        self._engine = engine
        self._quarantine = quarantine
        self._slices = slices
        self._writer = Coalescer[bytes, None](self._copy, self._refuse, GROUP_BYTES_MAXIMUM)

    async def append(self, first_id: UUID, agent_id: UUID, runs: Sequence[EventRun]) -> None:
        """Return after the commit."""
        rows = await self._slices.run_metered(encode_rows(first_id, agent_id, runs))
        await self._writer.submit(agent_id, rows, sum(map(len, rows)))

    def duties(self) -> list[Duty]:
        """Return the writers."""
        return [self._writer.duty("events writer"), self._writer.duty("small events writer", SMALL_BYTES)]

    async def _copy(self, rows: Sequence[bytes]) -> Sequence[None]:
        try:
            await self._copy_or_merge(rows)
        except MissingPartition:
            await create_partitions(self._engine)  # a duty creates it ahead of time, unless this host has slept
            await self._copy_or_merge(await self._without_past_days(rows))
        return [None] * len(rows)

    async def _copy_or_merge(self, rows: Sequence[bytes]) -> None:
        async with self._engine.connect() as connection:
            try:
                await store.copy_events(connection, rows)
            except Duplicate:  # a stream may deliver rows again; only then use the more expensive statement
                await store.merge_events(connection, rows)

    async def _without_past_days(self, rows: Sequence[bytes]) -> Sequence[bytes]:
        """Return the rows without expired days, which a stream may still contain; these rows are quarantined."""
        oldest = min(await list_days(self._engine, "events"))
        kept = []
        for row in rows:
            if uuid7_time(read_row(row)[0]).date() >= oldest:
                kept.append(row)
            else:
                await self._refuse(row, f"The events of days before {oldest} are not kept any more.")
        return kept

    async def _refuse(self, row: bytes, reason: str) -> None:
        _, agent_id, line = read_row(row)
        await self._quarantine.add(agent_id, [Quarantined(reason, line)])
