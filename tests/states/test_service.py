"""A batch that cannot be applied leaves nothing behind."""

import asyncio
from collections.abc import Sequence
from uuid import uuid4

import pytest
from support.duties import performing
from support.waiting import PATIENCE

from comms_api.database.connection import Engine
from comms_api.errors import Outdated
from comms_api.fairness.slices import Slices
from comms_api.protocol import OrderResult, ReportOutcome
from comms_api.states.model import StateChange, StatefulBatch
from comms_api.states.service import States

pytestmark = pytest.mark.anyio


async def no_reports(_agent_id: object, _results: Sequence[OrderResult]) -> Sequence[ReportOutcome]:
    return []


async def test_the_lists_of_a_refused_batch_are_empty_so_that_freeing_it_takes_one_short_step(engine: Engine) -> None:
    agent_id, states = uuid4(), States(engine, no_reports, Slices())

    def batch() -> StatefulBatch:
        return StatefulBatch([StateChange(0, (str(agent_id), "fim", "file", "1"), "update", b"{}")], [])

    async with performing(states), asyncio.timeout(PATIENCE):
        await states.change(agent_id, batch(), sequence=2)
        refused = batch()
        with pytest.raises(Outdated):
            await states.change(agent_id, refused, sequence=1)
    assert refused.changes == []
