"""Any two statements that lock several agents lock them in the order of their ids, so neither can deadlock the other.

A third connection, the gate, locks the agent in the middle. Both statements lock agents until they reach the gate. If
they began at different ends, each of them would then wait for an agent of the other.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import combinations_with_replacement
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from support.locks import until_blocked

from comms_api.agents.sightings import Sighting, record_sightings
from comms_api.agents.store import find_holders, set_blocked
from comms_api.database.connection import Connection, Engine
from comms_api.fleet.description import StoredDescription
from comms_api.fleet.description_store import Change, change_descriptions
from comms_api.groups.store import insert_group, insert_members
from comms_api.protocol import Host

pytestmark = pytest.mark.anyio

AGENTS = 200

Operation = Callable[[Connection, Sequence[UUID]], Awaitable[object]]


async def see(connection: Connection, ids: Sequence[UUID]) -> None:
    await record_sightings(connection, {agent_id: Sighting("192.0.2.1") for agent_id in ids}, "one")


async def describe(connection: Connection, ids: Sequence[UUID]) -> None:
    before, after = (StoredDescription("endpoint", version, Host(), None) for version in ("1", "2"))
    await change_descriptions(connection, [Change(agent_id, before, after) for agent_id in ids])


async def join(connection: Connection, ids: Sequence[UUID]) -> None:
    group = f"group-{uuid4().hex}"
    await insert_group(connection, group, 0)
    await insert_members(connection, group, ids)


OPERATIONS: dict[str, Operation] = {
    "block": lambda connection, ids: set_blocked(connection, ids, is_blocked=True),
    "see": see,
    "describe": describe,
    "join": join,
    # The agent that enrolls has the id of one agent, and the name of another.
    "replace": lambda connection, ids: find_holders(connection, max(ids), str(min(ids)), 0, 0),
    "replace the other": lambda connection, ids: find_holders(connection, min(ids), str(max(ids)), 0, 0),
}
PAIRS = list(combinations_with_replacement(OPERATIONS, 2))


async def add_descending(engine: Engine) -> list[UUID]:
    """Add agents whose rows lie in the descending order of their ids, and return the ids in this order."""
    ids = sorted((uuid4() for _ in range(AGENTS)), reverse=True)
    add = "INSERT INTO agents (id, name, key_hash) SELECT id, id, '' FROM unnest($1::uuid[]) AS id"
    async with engine.connect() as connection:
        await connection.driver.execute(add, ids)
    return ids


async def perform(engine: Engine, name: str, ids: Sequence[UUID]) -> None:
    async with engine.begin() as connection:
        await OPERATIONS[name](connection, ids)


@pytest.mark.parametrize("names", PAIRS, ids=" and ".join)
async def test_two_statements_that_lock_several_agents_do_not_deadlock(engine: Engine, names: tuple[str, str]) -> None:
    ids = await add_descending(engine)
    async with engine.begin() as gate:
        middle = {"id": ids[len(ids) // 2]}
        await gate.execute(text("SELECT FROM agents WHERE id = :id FOR UPDATE"), middle)
        tasks = [asyncio.create_task(perform(engine, name, ids)) for name in names]
        await until_blocked(engine, tasks)
    await asyncio.gather(*tasks)
