"""Store stateless batches durably, and read the events."""

from collections.abc import Sequence
from uuid import UUID

from comms_api.database.connection import Engine
from comms_api.database.housekeeping import HOUSEKEEPING_SECONDS
from comms_api.database.pages import Page
from comms_api.database.partitions import drop_partitions
from comms_api.database.uuid7 import DatabaseClock
from comms_api.duties.repeating import Duty
from comms_api.events import store
from comms_api.events.model import Event, StatelessBatch
from comms_api.events.quarantine import Quarantine
from comms_api.events.sinks import Sink
from comms_api.settings import Settings


class Events:
    """The stateless events of the fleet; `clock` makes the ids of batches."""

    def __init__(
        self, engine: Engine, clock: DatabaseClock, sink: Sink, quarantine: Quarantine, settings: Settings
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._sink = sink
        self.quarantine = quarantine
        self._retention_days = settings.events_retention_days

    def duties(self) -> Sequence[Duty]:
        """Return the duties of the sink, and the duties that delete old events and excess quarantined lines."""
        return [
            *self._sink.duties(),
            Duty(
                "events retention",
                lambda: drop_partitions(self._engine, "events", self._retention_days),
                HOUSEKEEPING_SECONDS,
            ),
            Duty("quarantine", self.quarantine.trim, HOUSEKEEPING_SECONDS),
        ]

    async def append(self, agent_id: UUID, batch: StatelessBatch) -> None:
        """Store a batch and return when it is durable; invalid lines go to the quarantine."""
        if batch.quarantined:
            await self.quarantine.add(agent_id, batch.quarantined, batch.hidden)
        if batch.runs:
            await self._sink.append(self._clock.uuid7(), agent_id, batch.runs)

    async def list(self, agent_id: UUID | None, module: str | None, after: UUID | None, limit: int) -> Page[Event]:
        """Return one page of the events in PostgreSQL, oldest first."""
        async with self._engine.connect() as connection:
            return await store.list_events(connection, agent_id, module, after, limit)
