"""Store events in PostgreSQL: all batches that wait share one INSERT and one commit.

A group with idempotency keys has a few statements more (`batches/keys`).
"""

import logging
from collections.abc import Sequence

from comms_api.batches.keys import claim_keys, record_keys
from comms_api.database.coalescing import Coalescer
from comms_api.database.connection import Engine
from comms_api.database.failures import MissingPartition
from comms_api.database.partitions import create_partitions, list_days
from comms_api.database.uuid7 import uuid7_time
from comms_api.duties.repeating import Duty
from comms_api.errors import CommsError
from comms_api.events import store
from comms_api.events.meters import SinkMeters
from comms_api.events.model import EventBatch
from comms_api.text.limited_log import LimitedLog

logger = logging.getLogger(__name__)

GROUP_BYTES_MAXIMUM = 2**20
"""A larger group stores no more per second, and its commit delays the small batches."""

BATCH_BYTES_MINIMUM = 4 * 1024
"""Each batch counts at least this many bytes, so that a group has at most 256 batches."""

SMALL_BYTES = 64 * 1024
"""Batches of up to this size have a reserved writer, so that they do not wait for large ones."""


class PostgresqlSink:
    """The table of event batches. Storing a batch again, by its id or its key, changes nothing."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._writer = Coalescer[EventBatch, CommsError | bool](self._insert, group_size_maximum=GROUP_BYTES_MAXIMUM)
        self.meters = SinkMeters({"events": self._writer})
        self._dropped = LimitedLog(logger, logging.WARNING)

    async def append(self, batch: EventBatch) -> bool:
        """Return after the commit; raises the errors of a `Claim`."""
        [outcome] = await self._writer.submit(batch.agent_id, [batch], max(BATCH_BYTES_MINIMUM, len(batch.content)))
        if isinstance(outcome, CommsError):
            raise outcome
        return outcome

    def duties(self) -> list[Duty]:
        """Return the writers."""
        return [self._writer.duty("events writer"), self._writer.duty("small events writer", SMALL_BYTES)]

    async def _insert(self, batches: Sequence[EventBatch]) -> Sequence[CommsError | bool]:
        try:
            return await self._insert_once(batches)
        except MissingPartition:
            await create_partitions(self._engine)  # a duty creates it ahead of time, unless this host has slept
        kept = await self._without_past_days(batches)
        outcomes, ids = iter(await self._insert_once(kept)), {batch.id for batch in kept}
        return [batch.id in ids and next(outcomes) for batch in batches]

    async def _insert_once(self, batches: Sequence[EventBatch]) -> Sequence[CommsError | bool]:
        """Insert batches in one transaction; return for each the error to answer, or whether its key is new."""
        if all(batch.key is None for batch in batches):
            async with self._engine.connect() as connection:
                await store.insert_batches(connection, batches)
            return [True] * len(batches)
        async with self._engine.begin() as connection:
            claims = await claim_keys(connection, [batch.key for batch in batches])
            if new := [batch for batch, claim in zip(batches, claims, strict=True) if claim is None]:
                await record_keys(connection, [(batch.key, None) for batch in new if batch.key is not None])
                await store.insert_batches(connection, new)
        return [claim if isinstance(claim, CommsError) else claim is None for claim in claims]

    async def _without_past_days(self, batches: Sequence[EventBatch]) -> Sequence[EventBatch]:
        """Return the batches without those of expired days, which a stream may still contain; these are dropped."""
        oldest = min(await list_days(self._engine, "event_batches"))
        kept = []
        for batch in batches:
            if uuid7_time(batch.id).date() >= oldest:
                kept.append(batch)
            else:
                self._dropped.write(
                    f"dropped {batch.events} events of agent {batch.agent_id}: "
                    f"the events of days before {oldest} are not kept any more"
                )
        return kept
