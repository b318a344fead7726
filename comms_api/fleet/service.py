"""Publish the events of the fleet, show them, and delete old ones."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from comms_api.database.connection import Connection, Engine
from comms_api.database.housekeeping import HOUSEKEEPING_SECONDS
from comms_api.database.listener import Notifier
from comms_api.database.pages import Order, Page
from comms_api.duties.repeating import Duty
from comms_api.fleet import store
from comms_api.fleet.model import FleetEvent, FleetEventFilter, OutboxEvent
from comms_api.fleet.removal import delete_old_records
from comms_api.settings import Settings

FLEET_EVENTS_CHANNEL = "comms_api_fleet_events"
PUBLISH_SECONDS = 1.0
STEP = 1_000
"""The maximum number of events that one transaction publishes or deletes."""

Enqueue: TypeAlias = Callable[[Connection, Sequence[OutboxEvent]], Awaitable[None]]


class FleetEvents:
    """The events of the fleet; `enqueue` adds the deliveries of published events, in the transaction of these."""

    def __init__(self, engine: Engine, notifier: Notifier, settings: Settings, enqueue: Enqueue) -> None:
        self._engine = engine
        self._notifier = notifier
        self._enqueue = enqueue
        self._days = settings.fleet_events_retention_days
        self._rows = settings.fleet_events_rows_maximum

    def duties(self) -> Sequence[Duty]:
        """Return the duties that publish events and delete old ones."""
        return [
            Duty("fleet events", self.publish, PUBLISH_SECONDS),
            Duty("fleet events retention", self.trim, HOUSEKEEPING_SECONDS),
        ]

    async def publish(self) -> None:
        """Give the committed events their positions, unless another node is doing so."""
        is_full = True
        while is_full:
            async with self._engine.begin() as connection:
                if not await store.lock_outbox(connection):
                    return
                published = await store.publish(connection, STEP)
                await self._enqueue(connection, published)
            if any(event.kind != store.RESULT for event in published):
                self._notifier.notify(FLEET_EVENTS_CHANNEL)
            is_full = len(published) == STEP

    async def trim(self) -> None:
        """Delete the events that are too old or too many."""
        async with self._engine.begin() as connection:
            await delete_old_records(connection)
        deleted = STEP
        while deleted == STEP:
            async with self._engine.begin() as connection:
                deleted = await store.trim(connection, self._days, self._rows, STEP)

    async def list(
        self, event_filter: FleetEventFilter, order: Order, after: int | None, limit: int
    ) -> Page[FleetEvent]:
        """Return one page of events.

        Raises `Conflict` for a position that no event has reached: after a restore, a reader must begin again.
        """
        async with self._engine.connect() as connection:
            if after is not None:
                await store.check_position(connection, after)
            return await store.list_events(connection, event_filter, order, after, limit)
