"""Collect the agents that this node sees and store them, with one statement a second for any number of requests."""

import logging
import math
import time
from collections import OrderedDict
from collections.abc import Mapping
from uuid import UUID

from comms_api.agents.sightings import Sighting, record_sightings
from comms_api.database.connection import Engine
from comms_api.duties.repeating import Duty

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 1.0


class Presence:
    """Collects sightings and stores them together; a node that dies loses at most one second of them."""

    def __init__(self, engine: Engine, node: str) -> None:
        self._node = node
        self._engine = engine
        self._sightings: dict[UUID, Sighting] = {}
        self._displacements = DisplacementLog()

    def saw(self, agent_id: UUID, remote_address: str | None, *, logged_in: bool = False) -> None:
        """Note a request of an agent."""
        sighting = self._sightings.get(agent_id)
        if sighting is None:
            self._sightings[agent_id] = Sighting(remote_address, logged_in)
            return
        sighting.remote_address, sighting.seen_at = remote_address, time.monotonic()
        sighting.logged_in = sighting.logged_in or logged_in

    def logged_in(self, agent_id: UUID, remote_address: str | None, instance: str | None) -> None:
        """Note a login, and the nonce of the agent's process if it sent one."""
        self.saw(agent_id, remote_address, logged_in=True)
        if instance is not None:
            self._sightings[agent_id].instance = instance

    def polled(self, agent_id: UUID, address: str, displaced_address: str | None) -> None:
        """Note an agent's poll, and the address of the poll that it displaces, if any."""
        self.saw(agent_id, address)
        sighting = self._sightings[agent_id]
        sighting.poll_address = address
        if displaced_address is not None:
            sighting.displaced_polls += 1
            sighting.displaced_poll_address = displaced_address

    def duties(self) -> list[Duty]:
        """Return the duty that stores the sightings every second, and the last ones when the node stops."""
        return [Duty("presence", self._flush, FLUSH_SECONDS, finish=self._flush)]

    async def _flush(self) -> None:
        sightings, self._sightings = self._sightings, {}
        if not sightings:
            return
        self._displacements.add(sightings)
        try:
            async with self._engine.connect() as connection:
                await record_sightings(connection, sightings, self._node)
        except Exception:
            for agent_id, earlier in sightings.items():
                if (later := self._sightings.setdefault(agent_id, earlier)) is not earlier:
                    later.add_earlier(earlier)
            raise


class DisplacementLog:
    """Logs displaced polls: once an hour for each agent, and only a few agents at a time."""

    SILENCE_SECONDS = 3_600.0
    AGENTS_AT_ONCE = 5
    AGENTS_REMEMBERED = 10_000

    def __init__(self) -> None:
        self._logged_at: OrderedDict[UUID, float] = OrderedDict()

    def add(self, sightings: Mapping[UUID, Sighting]) -> None:
        """Log the agents whose polls were displaced, except agents logged within the last hour."""
        now = time.monotonic()
        due = [
            agent_id
            for agent_id, sighting in sightings.items()
            if sighting.displaced_polls and self._logged_at.get(agent_id, -math.inf) <= now - self.SILENCE_SECONDS
        ]
        for agent_id in due[: self.AGENTS_AT_ONCE]:
            self._log(agent_id, sightings[agent_id])
            self._logged_at[agent_id] = now
            self._logged_at.move_to_end(agent_id)
            if len(self._logged_at) > self.AGENTS_REMEMBERED:
                self._logged_at.popitem(last=False)

    def _log(self, agent_id: UUID, sighting: Sighting) -> None:
        # A machine that reconnects displaces its own poll once; two machines with one data folder keep doing it.
        is_elsewhere = sighting.displaced_poll_address != sighting.poll_address
        logger.log(
            logging.WARNING if is_elsewhere else logging.INFO,
            "agent %s: its poll from %s was displaced by a newer one from %s; if this continues, two machines use one"
            " agent's identity",
            agent_id,
            sighting.displaced_poll_address,
            sighting.poll_address,
        )
