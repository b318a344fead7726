"""An operator writes states by hand, without the agent's lock, while a batch changes them."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from uuid import UUID, uuid4

import msgspec
import pytest
from sqlalchemy import text
from support.duties import performing
from support.waiting import PATIENCE

from comms_api.database.connection import Connection, Engine
from comms_api.fairness.slices import Slices
from comms_api.protocol import ItemResults, OrderResult, ReportOutcome
from comms_api.states.model import StateChange, StatefulBatch
from comms_api.states.service import States

pytestmark = pytest.mark.anyio
BLOCKED = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%states%'")


async def no_reports(_agent_id: UUID, results: Sequence[OrderResult]) -> Sequence[ReportOutcome]:
    assert results == []
    return []


@asynccontextmanager
async def states_of(engine: Engine) -> AsyncIterator[States]:
    states = States(engine, no_reports, Slices())
    async with performing(states), asyncio.timeout(PATIENCE):
        yield states


async def wait_until_blocked(engine: Engine) -> None:
    async with engine.connect() as connection:
        while not await connection.scalar(BLOCKED):
            pass


async def write(connection: Connection, statement: str, agent_id: UUID) -> None:
    await connection.execute(text(statement), {"agent_id": agent_id})


TEXT_OF = text("SELECT CAST(data AS text) FROM states WHERE agent_id = :id")
INSERT = "INSERT INTO states VALUES (:agent_id, 'fim', 'file', '1', '{\"a\": 1}')"


async def document(engine: Engine, agent_id: UUID) -> object:
    async with engine.connect() as connection:
        found = await connection.scalar(TEXT_OF, {"id": agent_id})
    return found and json.loads(found)


@pytest.mark.parametrize(
    ("operation", "status", "after"), [("update", 200, {"a": 1, "b": 2}), ("create", 409, {"a": 1})]
)
async def test_a_state_that_is_inserted_by_hand_is_merged_and_not_lost(
    engine: Engine, operation: str, status: int, after: object
) -> None:
    agent_id = uuid4()
    change = StateChange(0, (str(agent_id), "fim", "file", "1"), operation, b'{"b": 2}')  # type: ignore[arg-type]
    async with states_of(engine) as states:
        async with engine.begin() as by_hand:
            await write(by_hand, INSERT, agent_id)
            changing = asyncio.create_task(states.change(agent_id, StatefulBatch([change], [])))
            await wait_until_blocked(engine)
        [result] = msgspec.json.decode(await changing, type=ItemResults).results
    assert result.status == status
    assert await document(engine, agent_id) == after


async def test_a_state_that_is_deleted_by_hand_stays_deleted(engine: Engine) -> None:
    agent_id = uuid4()
    change = StateChange(0, (str(agent_id), "fim", "file", "1"), "update", b'{"b": 2}')
    async with states_of(engine) as states:
        async with engine.begin() as by_hand:
            await write(by_hand, INSERT, agent_id)
        async with engine.begin() as by_hand:
            await write(by_hand, "DELETE FROM states WHERE agent_id = :agent_id", agent_id)
            changing = asyncio.create_task(states.change(agent_id, StatefulBatch([change], [])))
            await wait_until_blocked(engine)
        [result] = msgspec.json.decode(await changing, type=ItemResults).results
    assert result.status == 200
    assert await document(engine, agent_id) is None
