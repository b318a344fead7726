"""Make a name one node's own before it serves; of two that start together one gets it."""

import asyncio
from importlib.metadata import version

from comms_api.cluster import store
from comms_api.cluster.model import NameHolder, NodeAddress
from comms_api.database.connection import Engine
from comms_api.errors import ConfigurationError

LOOK_SECONDS = 0.5


async def claim_name(engine: Engine, address: NodeAddress) -> None:
    """Take a name; raises `ConfigurationError` when a live node has it.

    A predecessor at the same address is replaced at once. A node elsewhere is watched: one that is alive is heard of
    within a heartbeat, one that was killed is lost some seconds later, and its name free.
    """
    first: NameHolder | None = None
    while (holder := await _try_to_claim(engine, address)) is not None:
        first = first or holder
        if holder.seen_at > first.now:
            raise ConfigurationError(
                f"node_name: a live node has the name {address.name!r}: {holder.agent_url}, management"
                f" {holder.management_url}; give this one another"
            )
        await asyncio.sleep(LOOK_SECONDS)


async def _try_to_claim(engine: Engine, address: NodeAddress) -> NameHolder | None:
    async with engine.begin() as connection:
        await store.lock_names(connection)
        holder = await store.find_name_holder(connection, address)
        if holder is None:
            await store.take_name(connection, address, version("comms-api"))
    return holder
