"""A process that leaves the cluster stays out of it."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text
from support.waiting import pause, until

from comms_api.cluster.membership import Membership
from comms_api.cluster.model import NodeAddress, NodeProcess, Polls
from comms_api.database.connect import open_engine
from comms_api.database.connection import Engine
from comms_api.database.failures import explain_outage
from comms_api.database.uuid7 import DatabaseClock
from comms_api.duties.health import DutyHealth
from comms_api.duties.repeating import repeat
from comms_api.settings import Settings
from comms_api.tokens.keyring import Keyring, new_signing_key

pytestmark = pytest.mark.anyio

SEEN_AT = text("SELECT seen_at FROM nodes WHERE name = 'leaver'")


@pytest.fixture
async def observer(database_url: str) -> AsyncIterator[Engine]:
    """An engine separate from the engine of the membership."""
    opened = open_engine(database_url, Settings())
    yield opened
    await opened.dispose()


def member(engine: Engine) -> Membership:
    polls = Polls(lambda: 0, lambda _: None, lambda: None, lambda: None)
    process = NodeProcess(NodeAddress("leaver", "https://one:1", "https://one:2", "boot"))
    return Membership(engine, process, DatabaseClock(), Keyring([new_signing_key()]), polls, DutyHealth(explain_outage))


async def test_the_last_heartbeat_of_a_process_does_not_add_it_again_after_it_has_left(
    engine: Engine, observer: Engine
) -> None:
    membership = member(engine)
    await membership.join()
    async with engine.connect() as connection:  # the only one in its pool
        backend = await connection.scalar(text("SELECT pg_backend_pid()"))
    [heartbeat] = membership.duties()
    await heartbeat.perform()  # from now on a heartbeat is one message to the backend
    pause(backend)
    try:
        beating = asyncio.create_task(repeat(heartbeat, DutyHealth(explain_outage)))
        membership.beat_soon()
        await until(engine.sqlalchemy.pool.checkedout)
        await asyncio.sleep(0.1)  # by now the backend has received the statement, but does not read it
        beating.cancel()
        leaving = asyncio.create_task(membership.leave())
        await asyncio.wait([leaving], timeout=1)  # enough time for a removal that does not wait for the heartbeat
    finally:
        os.kill(backend, signal.SIGCONT)
    await leaving
    async with observer.connect() as connection:
        await connection.execute(text("SELECT pg_sleep(0.5)"))  # enough time for a late heartbeat
    assert await seen_at(observer) is None


async def seen_at(engine: Engine) -> object:
    async with engine.connect() as connection:
        return await connection.scalar(SEEN_AT)
