"""The tokens of an agent that is replaced end on every node."""

import asyncio

import pytest
from sqlalchemy import text
from support.server import KEY
from support.waiting import PATIENCE

from comms_api.agents.service import Agents
from comms_api.database.connection import Engine
from comms_api.database.listener import Notifier
from comms_api.database.uuid7 import DatabaseClock
from comms_api.protocol import Enrollment
from comms_api.revocations.service import REVOCATIONS_CHANNEL, Revocations
from comms_api.revocations.store import list_revocations
from comms_api.settings import Settings
from comms_api.tokens.secret import Secret

pytestmark = pytest.mark.anyio


WAITING = text("SELECT count(*) FROM pg_locks WHERE NOT granted")


async def test_a_replacement_is_announced_after_its_commit(engine: Engine) -> None:
    announced: list[object] = []
    revocations = Revocations(engine, Notifier(engine, {REVOCATIONS_CHANNEL: announced.append}))
    agents = Agents(engine, Secret(b"s" * 32), DatabaseClock(), revocations, Settings(reenroll_after_days=1))
    old = await agents.enroll(Enrollment(name="host-7", key=KEY), None)
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE agents SET created_at = now() - interval '2 days'"))
        await connection.execute(text("INSERT INTO groups (name) VALUES ('web')"))
    async with engine.begin() as connection:
        await connection.execute(text("SELECT FROM groups FOR UPDATE"))  # the enrollment waits for it at its end
        enrollment = Enrollment(name="host-7", key=KEY[::-1], groups=("web",))
        enrolling = asyncio.create_task(agents.enroll(enrollment, None))
        async with asyncio.timeout(PATIENCE):
            while not await connection.scalar(WAITING):  # noqa: ASYNC110 - locks have no events of this loop
                await asyncio.sleep(0.01)
        assert announced == []
    await enrolling
    assert len(announced) == 1
    async with engine.connect() as connection:
        assert str(old.id) in await list_revocations(connection, 3_600)
