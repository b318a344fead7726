"""Keep the newest lines that are not valid events, with the reasons, for operators."""

import logging
from collections.abc import Sequence
from uuid import UUID

from comms_api.batches.keys import BatchKey, claim_keys, record_keys
from comms_api.database.connection import Engine
from comms_api.database.failures import log_failure
from comms_api.database.pages import Page, PageRequest
from comms_api.database.uuid7 import DatabaseClock
from comms_api.errors import CommsError
from comms_api.events import store
from comms_api.events.model import (
    QUARANTINED_LINE_BYTES_MAXIMUM,
    QUARANTINED_LINES_MAXIMUM,
    Quarantined,
    QuarantinedEvent,
    QuarantinedRow,
)

logger = logging.getLogger(__name__)

AGENT_SHARE = 10
"""One agent may have this fraction of the kept lines, so that it never displaces the lines of all others."""

TRIMMED_SHARE = 10
TRIMMED_ROWS_MINIMUM = 1_000
"""A process trims the quarantine after it has added a tenth of its limit, but at least this many lines."""


class Quarantine:
    """The lines of stateless batches that could not be stored as events."""

    def __init__(self, engine: Engine, clock: DatabaseClock, rows_maximum: int) -> None:
        self._engine = engine
        self._clock = clock
        self._rows_maximum = rows_maximum
        self._untrimmed = 0
        self.lines = 0
        """The number of invalid lines that this process has received, kept or not."""

    async def add(
        self, agent_id: UUID, lines: Sequence[Quarantined], hidden: int = 0, key: BatchKey | None = None
    ) -> None:
        """Keep the first lines of one batch, and the number of the `hidden` ones; once for each key.

        Raises the errors of a `Claim`.
        """
        total = len(lines) + hidden
        shown, hidden = lines[:QUARANTINED_LINES_MAXIMUM], hidden + max(0, len(lines) - QUARANTINED_LINES_MAXIMUM)
        if hidden:
            shown = [*shown, Quarantined(f"{hidden} further lines of this batch are not kept", b"")]
        rows: list[QuarantinedRow] = [
            (self._clock.uuid7(), agent_id, line.reason, line.line[:QUARANTINED_LINE_BYTES_MAXIMUM], len(line.line))
            for line in shown
        ]
        if not await self._insert(rows, key):
            return
        self.lines += total
        self._untrimmed += len(rows)
        if self._untrimmed >= max(TRIMMED_ROWS_MINIMUM, self._rows_maximum // TRIMMED_SHARE):
            await self._trim_now()

    async def _insert(self, rows: Sequence[QuarantinedRow], key: BatchKey | None) -> bool:
        """Insert the rows of a new key, or without a key, and return True; return False for a repetition."""
        async with self._engine.begin() as connection:
            [claim] = await claim_keys(connection, [key])
            if claim is None:
                await record_keys(connection, [(key, None)] if key else [])
                await store.insert_quarantined(connection, rows)
        if isinstance(claim, CommsError):
            raise claim
        return claim is None

    async def trim(self) -> None:
        """Delete the oldest excess lines: first those beyond an agent's share, then any."""
        self._untrimmed = 0  # before the deletion, since other tasks may add lines during it
        share = max(1, self._rows_maximum // AGENT_SHARE)
        async with self._engine.begin() as connection:
            await store.trim_quarantine(connection, self._rows_maximum, share)

    async def _trim_now(self) -> None:
        try:
            await self.trim()
        except Exception as error:  # noqa: BLE001 - the lines stay, and the next trim deletes them
            log_failure(logger, "quarantine not trimmed", error)

    async def list(self, agent_id: UUID | None, requested: PageRequest) -> Page[QuarantinedEvent]:
        """Return one page of lines."""
        async with self._engine.connect() as connection:
            return await store.list_quarantined(connection, agent_id, requested)
