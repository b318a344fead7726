"""Store stateless batches durably."""

from collections.abc import Sequence
from uuid import UUID

from comms_api.batches.keys import BatchKey, key_of_part
from comms_api.database.connection import Engine
from comms_api.database.housekeeping import HOUSEKEEPING_SECONDS
from comms_api.database.partitions import drop_partitions
from comms_api.database.uuid7 import DatabaseClock
from comms_api.duties.repeating import Duty
from comms_api.events.contents import encode_content, encode_streams
from comms_api.events.meters import StoredEvents
from comms_api.events.model import EventBatch, StatelessBatch
from comms_api.events.quarantine import Quarantine
from comms_api.events.sinks import Sink
from comms_api.fairness.slices import Slices
from comms_api.settings import Settings


class Events:
    """The stateless events of the fleet; `clock` makes the ids of batches."""

    def __init__(  # noqa: PLR0913 - the composition root passes each dependency by name
        self,
        engine: Engine,
        clock: DatabaseClock,
        slices: Slices,
        sink: Sink,
        quarantine: Quarantine,
        settings: Settings,
    ) -> None:
        self._engine = engine
        self._slices = slices
        self._clock = clock
        self._sink = sink
        self.quarantine = quarantine
        self._retention_days = settings.events_retention_days
        self.meters = sink.meters
        self.stored = StoredEvents()

    def duties(self) -> Sequence[Duty]:
        """Return the duties of the sink, and the duties that delete old events and excess quarantined lines."""
        return [
            *self._sink.duties(),
            Duty(
                "events retention",
                lambda: drop_partitions(self._engine, "event_batches", self._retention_days),
                HOUSEKEEPING_SECONDS,
            ),
            Duty("quarantine", self.quarantine.trim, HOUSEKEEPING_SECONDS),
        ]

    async def append(
        self,
        agent_id: UUID,
        batch: StatelessBatch,
        body: bytes,
        zstd: bytes | None = None,
        key: BatchKey | None = None,
    ) -> None:
        """Store a batch that was read from `body` and return when it is durable; invalid lines go to the quarantine.

        `zstd` is the body as it came, if that was compressed by zstd. The events of a key that the agent has used for
        the same body are stored already. Raises the errors of a `Claim`.
        """
        if batch.quarantined and key is None:  # if the events fail, their repetition repeats lines rather than events
            await self.quarantine.add(agent_id, batch.quarantined, batch.hidden)
        if batch.runs:
            content = await self._slices.run_metered(encode_content(batch, body, zstd))
            events = sum(len(run.lines) for run in batch.runs)
            streams = encode_streams(batch.runs)
            if await self._sink.append(EventBatch(self._clock.uuid7(), agent_id, events, streams, content, key)):
                self.stored.batches += 1
                self.stored.events += events
                self.stored.body_bytes += len(body)
            else:
                self.stored.repeated_batches += 1
        if batch.quarantined and key is not None:  # the events have refused another body with this key
            lines_key = key_of_part(key, "invalid lines") if batch.runs else key
            await self.quarantine.add(agent_id, batch.quarantined, batch.hidden, lines_key)
