"""Failed key requests are limited, of each address and in all, by all nodes together."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import text
from support.databases import PATIENT
from support.sources import agent_json, answering, by_id, refusal_json, settings

from comms_api.addresses import network_of
from comms_api.database.connect import open_engine
from comms_api.database.connection import Engine
from comms_api.errors import TooManyRequests
from comms_api.key_requests.model import ExternalAgent, Question, Refusal
from comms_api.key_requests.requests import KeyRequests

pytestmark = pytest.mark.anyio

LOUD, QUIET = "192.0.2.1", "192.0.2.2"
BURST = 4
"""Of 60 failures in a minute."""


@pytest.fixture
def database_url(new_database: Callable[[], str]) -> str:
    """A separate database for the test."""
    return new_database()


@asynccontextmanager
async def asking_with_limits(engine: Engine, path: Path, **changes: float) -> AsyncIterator[KeyRequests]:
    limits = settings(socket=path, **{"address_failures_per_minute": 60.0} | changes)
    requests = KeyRequests(limits, engine)
    try:
        yield requests
    finally:
        await requests.close()


async def only_numbers_below_100(request: str) -> bytes:
    value = request.removeprefix("id:")
    return agent_json(id=value) if int(value) < 100 else refusal_json()


async def outcomes(requests: KeyRequests, numbers: range, client: str) -> list[object]:
    """Ask one after the other, so that no two requests are under way."""
    return [
        (await asyncio.gather(requests.ask(Question("id", f"{number:03}"), client), return_exceptions=True))[0]
        for number in numbers
    ]


async def hold_locks(engine: Engine) -> None:
    """Let the locks last longer than this test."""
    async with engine.begin() as connection:
        await connection.execute(
            text("UPDATE login_failures SET locked_until = now() + interval '1 h' WHERE locked_until > '-infinity'")
        )


async def test_an_address_whose_requests_fail_is_refused_and_another_is_not(engine: Engine, path: Path) -> None:
    async with answering(path, only_numbers_below_100) as received, asking_with_limits(engine, path) as requests:
        failed = await outcomes(requests, range(100, 100 + BURST + 1), LOUD)
        await hold_locks(engine)
        [refused] = await outcomes(requests, range(200, 201), LOUD)
        [admitted] = await outcomes(requests, range(1, 2), QUIET)
    assert {type(outcome) for outcome in failed} == {Refusal}
    assert isinstance(refused, TooManyRequests)
    assert (refused.retry_after_seconds or 0) > 0
    assert isinstance(admitted, ExternalAgent)
    assert "id:200" not in received
    assert requests.counters.limited == 1


async def test_the_addresses_of_an_ipv6_network_are_limited_together(engine: Engine, path: Path) -> None:
    first, second = (network_of(f"2001:db8::{number}") for number in (1, 2))
    async with answering(path, only_numbers_below_100), asking_with_limits(engine, path) as requests:
        failed = await outcomes(requests, range(100, 100 + BURST + 1), first)
        await hold_locks(engine)
        [refused] = await outcomes(requests, range(200, 201), second)
    assert {type(outcome) for outcome in failed} == {Refusal}
    assert isinstance(refused, TooManyRequests)


async def test_requests_that_succeed_are_not_limited(engine: Engine, path: Path) -> None:
    async with answering(path, by_id), asking_with_limits(engine, path) as requests:
        found = await outcomes(requests, range(100, 100 + 10 * BURST), LOUD)
        assert await outcomes(requests, range(1, 2), LOUD) == [ExternalAgent("001", "web-1", "any", found[0].key)]
    assert {type(outcome) for outcome in found} == {ExternalAgent}


async def test_all_nodes_count_the_failures_of_an_address_together(
    engine: Engine, database_url: str, path: Path
) -> None:
    other = open_engine(database_url, PATIENT)
    async with (
        answering(path, only_numbers_below_100),
        asking_with_limits(engine, path) as requests,
        asking_with_limits(other, path) as elsewhere,
    ):
        await outcomes(requests, range(100, 100 + BURST + 1), LOUD)
        await hold_locks(engine)
        refused = await outcomes(elsewhere, range(200, 203), LOUD)
    await other.dispose()
    assert {type(outcome) for outcome in refused} == {TooManyRequests}
    assert elsewhere.counters.limited == 1  # then it remembered the lock


async def test_failures_from_many_addresses_are_limited_in_all(engine: Engine, path: Path) -> None:
    limited = asking_with_limits(engine, path, failures_per_minute=60.0)
    async with answering(path, only_numbers_below_100), limited as requests:
        for number in range(BURST + 1):
            await outcomes(requests, range(100 + number, 101 + number), f"192.0.2.{number}")
        await hold_locks(engine)
        [refused] = await outcomes(requests, range(200, 201), QUIET)
    assert isinstance(refused, TooManyRequests)
