"""Keep the lines that cannot be events, for people to see why."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from comms_api.database.uuid7 import DatabaseClock
from comms_api.events import store
from comms_api.events.model import (
    QUARANTINED_LINE_BYTES_MAXIMUM,
    QUARANTINED_LINES_MAXIMUM,
    Quarantined,
    QuarantinedEvent,
)
from comms_api.http.pages import Page, page_of


class Quarantine:
    """The lines of stateless batches that could not be stored as events."""

    def __init__(self, engine: AsyncEngine, clock: DatabaseClock) -> None:
        """Take the clock that ids are made by."""
        self._engine = engine
        self._clock = clock

    async def add(self, agent_id: UUID, lines: Sequence[Quarantined]) -> None:
        """Keep lines of one batch, the first ones of very many."""
        shown, hidden = lines[:QUARANTINED_LINES_MAXIMUM], len(lines) - QUARANTINED_LINES_MAXIMUM
        if hidden > 0:
            shown = [*shown, Quarantined(f"{hidden} further lines of this batch are not kept", b"")]
        rows = [self._values(agent_id, line) for line in shown]
        async with self._engine.begin() as connection:
            await store.insert_quarantined(connection, rows)

    def _values(self, agent_id: UUID, quarantined: Quarantined) -> dict[str, object]:
        return {
            "id": self._clock.uuid7(),
            "agent_id": agent_id,
            "reason": quarantined.reason,
            "line": quarantined.line[:QUARANTINED_LINE_BYTES_MAXIMUM],
            "line_bytes": len(quarantined.line),
        }

    async def list(self, agent_id: UUID | None, after: UUID | None, limit: int) -> Page[QuarantinedEvent]:
        """Return one page of lines, oldest first."""
        async with self._engine.connect() as connection:
            lines = await store.list_quarantined(connection, agent_id, after, limit + 1)
        return page_of(lines, limit, lambda line: str(line.id))
