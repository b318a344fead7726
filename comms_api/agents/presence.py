"""Which agents this node has seen since it last said so: one statement a second, however many requests."""

import asyncio
import logging
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from comms_api.agents import store
from comms_api.agents.model import Sighting
from comms_api.database.direct import direct
from comms_api.database.failures import log_failure

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 1.0


class Presence:
    """Collects sightings and writes them together; what an outage loses is at most a second of them."""

    def __init__(self, engine: AsyncEngine, node: str) -> None:
        """Take the name of the node that sees them."""
        self._node = node
        self._engine = engine
        self._sightings: dict[UUID, Sighting] = {}

    def saw(self, agent_id: UUID, remote_address: str | None, *, logged_in: bool = False) -> None:
        """Note a request of an agent."""
        before = self._sightings.get(agent_id)
        self._sightings[agent_id] = Sighting(remote_address, logged_in or bool(before and before.logged_in))

    async def run(self) -> None:
        """Write what was seen, each second, until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            await self.flush()

    async def flush(self) -> None:
        """Write what was seen; keeps it for the next time when the database is away."""
        sightings, self._sightings = self._sightings, {}
        if not sightings:
            return
        try:
            async with direct(self._engine) as connection:
                await store.record_sightings(connection, sightings, self._node)
        except Exception as error:  # noqa: BLE001 - it must go on recording
            self._sightings = sightings | self._sightings
            log_failure(logger, "sightings not recorded yet", error)
