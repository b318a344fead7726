"""The versions of an action are limited, even if several are registered at the same time."""

import asyncio

import msgspec
import pytest
from support.locks import until_blocked

from comms_api.actions import store
from comms_api.actions.model import NewAction
from comms_api.actions.schemas import Schemas
from comms_api.actions.service import REGISTRATION_LOCK, VERSIONS_MAXIMUM, Actions
from comms_api.database.connection import Engine
from comms_api.errors import Conflict
from comms_api.fairness.budgets import CpuBudget

pytestmark = pytest.mark.anyio

ANYTHING = msgspec.Raw(b"{}")


async def test_a_version_is_counted_before_another_is_added(engine: Engine) -> None:
    actions = Actions(engine, Schemas(CpuBudget(0)))
    for number in range(1, VERSIONS_MAXIMUM):
        await actions.register("crowded", NewAction(ANYTHING, version=f"{number}"), "admin")
    async with engine.begin() as connection:
        await connection.take_turns(REGISTRATION_LOCK)
        await store.store_action(connection, "crowded", NewAction(ANYTHING, version="last"), "admin")
        late = asyncio.ensure_future(actions.register("crowded", NewAction(ANYTHING, version="late"), "admin"))
        await until_blocked(engine, [late])
    with pytest.raises(Conflict):
        await late
    await actions.register("crowded", NewAction(ANYTHING, version="last"), "admin")
