"""All nodes together look an agent up once at a time and share refusals; nobody waits longer than the time limit."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from support.databases import PATIENT
from support.sources import ASKED, always, answering, by_id, never, refusal_json, settings
from support.waiting import PATIENCE, until

from comms_api.database.connect import open_engine
from comms_api.database.connection import Engine
from comms_api.errors import Unavailable
from comms_api.key_requests.flights import AskedElsewhere
from comms_api.key_requests.model import ExternalAgent, Question, Refusal
from comms_api.key_requests.requests import KeyRequests
from comms_api.key_requests.store import delete_expired

pytestmark = pytest.mark.anyio


@pytest.fixture
def database_url(new_database: Callable[[], str]) -> str:
    """A separate database for each test."""
    return new_database()


@asynccontextmanager
async def two_nodes(engine: Engine, url: str, path: Path, **changes: Any) -> AsyncIterator[list[KeyRequests]]:
    """Make key requests of two nodes on one database."""
    other = open_engine(url, PATIENT)
    configured = settings(socket=path, **changes)
    nodes = [KeyRequests(configured, engine), KeyRequests(configured, other)]
    yield nodes
    for node in nodes:
        await node.close()
    await other.dispose()


async def count_rows(engine: Engine) -> int:
    async with engine.connect() as connection:
        return int(await connection.scalar(text("SELECT count(*) FROM key_lookups")))


async def test_two_nodes_ask_about_one_agent_once_at_a_time(engine: Engine, database_url: str, path: Path) -> None:
    may_answer = asyncio.Event()

    async def wait(request: str) -> bytes:
        await may_answer.wait()
        return await by_id(request)

    async with answering(path, wait) as received, two_nodes(engine, database_url, path) as nodes:
        asking = [asyncio.create_task(nodes[number % 2].ask(ASKED)) for number in range(100)]
        other = asyncio.create_task(nodes[1].ask(Question("id", "002")))
        await until(lambda: len(received) == 2)
        may_answer.set()
        assert isinstance(await other, ExternalAgent)
        outcomes = await asyncio.gather(*asking, return_exceptions=True)
    assert received.count("id:001") == 1
    assert {type(outcome) for outcome in outcomes} == {ExternalAgent, AskedElsewhere}
    assert await count_rows(engine) == 0


async def test_a_refusal_is_remembered_by_all_nodes(engine: Engine, database_url: str, path: Path) -> None:
    refused = answering(path, always(refusal_json()))
    async with refused as received, two_nodes(engine, database_url, path, refusal_seconds=PATIENCE) as nodes:
        for node in nodes:
            assert await node.ask(ASKED) == Refusal(4, "no such agent")
        async with engine.begin() as connection:
            await connection.execute(text("UPDATE key_lookups SET until = now()"))
            await delete_expired(connection)
    assert len(received) == 1
    assert await count_rows(engine) == 0


async def test_a_node_that_waits_for_another_gives_up_at_its_deadline(
    engine: Engine, database_url: str, path: Path
) -> None:
    async with answering(path, never) as received:
        for seconds in (1.0, 10.0, PATIENCE):  # a busy machine may ask too late
            async with two_nodes(engine, database_url, path, timeout_seconds=seconds) as nodes:
                outcomes = await asyncio.gather(*(node.ask(ASKED) for node in nodes), return_exceptions=True)
            if received:
                break
    assert {isinstance(outcome, Unavailable) for outcome in outcomes} == {True}
    assert len(received) == 1
    assert await count_rows(engine) == 0


async def test_the_claim_of_a_dead_node_expires(engine: Engine, database_url: str, path: Path) -> None:
    claim = """INSERT INTO key_lookups (question, holder, until)
        VALUES ('id:001', uuid7(), now() + make_interval(secs => :seconds))"""
    async with answering(path, by_id), two_nodes(engine, database_url, path) as nodes:
        for seconds in (1.0, 10.0):  # a busy machine may ask when the claim has expired
            async with engine.begin() as connection:
                await connection.execute(text(claim), {"seconds": seconds})
            [outcome] = await asyncio.gather(nodes[0].ask(ASKED), return_exceptions=True)
            if isinstance(outcome, AskedElsewhere):
                break
        assert isinstance(outcome, AskedElsewhere)
        assert isinstance(await nodes[0].ask(ASKED), ExternalAgent)


async def test_expired_lookups_are_deleted_and_the_others_are_bounded(engine: Engine) -> None:
    rows = """INSERT INTO key_lookups (question, holder, until)
        SELECT number::text, uuid7(), now() + make_interval(secs => number) FROM generate_series(-5, 10) AS number"""
    async with engine.begin() as connection:
        await connection.execute(text(rows))
    for rows_maximum, left in ((100, 10), (3, 3)):
        async with engine.begin() as connection:
            await delete_expired(connection, rows_maximum)
        assert await count_rows(engine) == left
