"""Claim a node's name before it serves. Of two nodes that start together, one gets the name."""

import asyncio

from comms_api import __version__
from comms_api.cluster import store
from comms_api.cluster.model import NameHolder, NodeAddress
from comms_api.database.connection import Engine
from comms_api.errors import ConfigurationError

RETRY_SECONDS = 0.5


async def claim_name(engine: Engine, address: NodeAddress) -> None:
    """Claim the name of a node; raises `ConfigurationError` if another live node has it.

    A predecessor at the same address is replaced at once. Otherwise wait for the next heartbeat of the holder: a live
    holder sends it within seconds; a killed holder counts as lost a few seconds later, which frees the name.
    """
    first: NameHolder | None = None
    while (holder := await _try_to_claim(engine, address)) is not None:
        first = first or holder
        if holder.seen_at > first.now:
            raise ConfigurationError(
                f"node_name: a live node has the name {address.name!r}: {holder.agent_url}, management"
                f" {holder.management_url}; choose another name for this node"
            )
        await asyncio.sleep(RETRY_SECONDS)


async def _try_to_claim(engine: Engine, address: NodeAddress) -> NameHolder | None:
    async with engine.begin() as connection:
        await store.lock_names(connection)
        holder = await store.find_name_holder(connection, address)
        if holder is None:
            await store.take_name(connection, address, __version__)
    return holder
