"""Make a name one node's own before it serves; of two that start together one gets it."""

import asyncio
from importlib.metadata import version

from sqlalchemy.ext.asyncio import AsyncEngine

from comms_api.cluster import store
from comms_api.cluster.model import Place, Rival
from comms_api.errors import ConfigurationError

LOOK_SECONDS = 0.5


async def claim_name(engine: AsyncEngine, place: Place) -> None:
    """Take a name; raises `ConfigurationError` when a live node has it.

    A predecessor at the same place is replaced at once. A node elsewhere is watched: one that is alive is heard of
    within a heartbeat, one that was killed is lost some seconds later, and its name free.
    """
    first: Rival | None = None
    while (rival := await _try_to_claim(engine, place)) is not None:
        first = first or rival
        if rival.seen_at > first.now:
            raise ConfigurationError(
                f"node_name: a live node has the name {place.name!r}: {rival.agent_url}, management"
                f" {rival.management_url}; give this one another"
            )
        await asyncio.sleep(LOOK_SECONDS)


async def _try_to_claim(engine: AsyncEngine, place: Place) -> Rival | None:
    async with engine.begin() as connection:
        await store.lock_names(connection)
        rival = await store.find_rival(connection, place)
        if rival is None:
            await store.take_name(connection, place, version("comms-api"))
    return rival
