"""Failed logins are counted one by one, on any node; locks double, expire and are deleted."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import nullcontext

import pytest
from sqlalchemy import text
from support.databases import PATIENT
from support.waiting import PATIENCE

from comms_api.database.connect import open_engine
from comms_api.database.connection import Engine
from comms_api.database.failures import is_outage
from comms_api.errors import TooManyRequests, Unauthenticated, Unavailable
from comms_api.lockouts.model import LONGEST_SECONDS, Allowance
from comms_api.lockouts.service import REFUSED_AT_ONCE, FailureLimit
from comms_api.lockouts.store import FORGOTTEN_SECONDS, clear_everywhere, delete_forgotten
from comms_api.settings import Settings

pytestmark = pytest.mark.anyio

HERE = "192.0.2.1"


@pytest.fixture
def database_url(new_database: Callable[[], str]) -> str:
    """A separate database for the test."""
    return new_database()


def allowance_of(failures: int = 1, seconds: float = LONGEST_SECONDS) -> Allowance:
    return Allowance("test", failures, seconds)


def limit_of(engine: Engine, failures: int = 1, seconds: float = LONGEST_SECONDS) -> FailureLimit:
    return FailureLimit(engine, allowance_of(failures, seconds))


async def pass_time(engine: Engine, seconds: float) -> None:
    """Make every stored failure this much older."""
    async with engine.begin() as connection:
        await connection.execute(
            text(
                "UPDATE login_failures SET failed_at = failed_at - make_interval(secs => :seconds),"
                " locked_until = locked_until - make_interval(secs => :seconds)"
            ),
            {"seconds": seconds},
        )


async def count_rows(engine: Engine) -> int:
    async with engine.begin() as connection:
        return int(await connection.scalar(text("SELECT count(*) FROM login_failures")))


async def is_charged(charge: Awaitable[None]) -> bool:
    try:
        await charge
    except TooManyRequests:
        return False
    return True


async def test_attempts_that_wait_while_one_is_locked_out_are_refused_over_several_rounds(engine: Engine) -> None:
    limit, ended = limit_of(engine), list[bool]()

    async def charge() -> None:
        ended.append(await is_charged(limit.charge("somebody", HERE)))

    attempts = [asyncio.create_task(charge()) for _ in range(100)]
    most = before = 0
    async with asyncio.timeout(PATIENCE):
        while len(ended) < len(attempts):
            await asyncio.sleep(0)
            most, before = max(most, len(ended) - before), len(ended)
    assert ended.count(True) == 2
    assert most <= REFUSED_AT_ONCE + 1


async def test_attempts_that_wait_for_each_other_leave_connections_for_other_requests(
    database_url: str, engine: Engine
) -> None:
    limit, other = limit_of(engine, 5), open_engine(database_url, PATIENT)
    await limit.charge("somebody", HERE)
    async with other.begin() as holding:
        await holding.execute(text("SELECT * FROM login_failures FOR UPDATE"))
        tries = [asyncio.create_task(is_charged(limit.charge("somebody", HERE))) for _ in range(60)]
        async with engine.connect() as connection:
            waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
            while not await connection.scalar(waiting):  # noqa: ASYNC110 - the database sends no event
                await asyncio.sleep(0)
            await asyncio.gather(*(is_charged(limit.charge("another", HERE)) for _ in range(3)))
        tries[30].cancel()
    charged = await asyncio.gather(*tries, return_exceptions=True)
    await other.dispose()
    assert charged.count(True) == 5
    assert charged.count(False) == 54


async def test_attempts_that_wait_during_an_outage_fail_with_it(database_url: str, engine: Engine) -> None:
    hasty = open_engine(database_url, Settings(database_timeout_seconds=1))
    limit = limit_of(hasty, 5)
    await limit_of(engine, 5).charge("somebody", HERE)
    async with engine.begin() as holding:
        await holding.execute(text("SELECT * FROM login_failures FOR UPDATE"))
        errors = await asyncio.gather(*(limit.charge("somebody", HERE) for _ in range(20)), return_exceptions=True)
    await hasty.dispose()
    assert Counter(isinstance(error, Unavailable) for error in errors) == {False: 1, True: 19}
    assert is_outage(next(error for error in errors if isinstance(error, Exception)))


async def test_concurrent_attempts_through_two_engines_are_charged_up_to_one_beyond_the_limit(
    database_url: str, engine: Engine
) -> None:
    other = open_engine(database_url, PATIENT)
    limits = [limit_of(engine, 5), limit_of(other, 5)]
    charged = await asyncio.gather(*(is_charged(limits[number % 2].charge("somebody", HERE)) for number in range(60)))
    await other.dispose()
    assert sum(charged) == 6


async def test_the_lock_doubles_up_to_its_bound(engine: Engine) -> None:
    limit, locks = FailureLimit(engine, Allowance("test", 5, 1.0, forgotten_seconds=1e9)), list[float]()
    for _ in range(20):
        await limit.charge("somebody", HERE)
        async with engine.begin() as connection:
            lock = "SELECT extract(epoch FROM locked_until - failed_at)::float8 FROM login_failures"
            locks += await connection.scalars(text(f"{lock} WHERE locked_until > '-infinity'"))
            await connection.execute(text("UPDATE login_failures SET locked_until = '-infinity'"))
    assert locks == pytest.approx([1, 2, 4, 8, 16, 32, 64, 128, 256, 512, *[LONGEST_SECONDS] * 5], rel=0.01)


async def test_a_lockout_says_when_it_ends_and_failures_expire(engine: Engine) -> None:
    limit = limit_of(engine, 5)
    for _ in range(6):
        await limit.charge("somebody", HERE)
    with pytest.raises(TooManyRequests) as locked:
        await limit.charge("somebody", HERE)
    assert 0 < (locked.value.retry_after_seconds or 0) <= LONGEST_SECONDS
    await limit.charge("nobody", HERE)
    await pass_time(engine, 2 * LONGEST_SECONDS)
    limit = limit_of(engine, 5)  # of another node, which does not remember the lock
    assert [await is_charged(limit.charge("somebody", HERE)) for _ in range(6)] == [True] * 6


async def test_a_lock_costs_a_node_no_statement_while_it_remembers_it(database_url: str, engine: Engine) -> None:
    other = open_engine(database_url, PATIENT)
    limit, elsewhere = limit_of(engine), limit_of(other)
    for _ in range(2):
        await limit.charge("somebody", HERE)
    with pytest.raises(TooManyRequests):
        await elsewhere.check("somebody", HERE)
    await other.dispose()
    for refuse in (elsewhere.check("somebody", HERE), elsewhere.charge("somebody", HERE)):
        with pytest.raises(TooManyRequests):
            await refuse
    await limit.check("another", HERE)
    await limit.clear("somebody", HERE)
    await limit.check("somebody", HERE)


async def test_the_addresses_of_one_ipv6_network_count_as_one(engine: Engine) -> None:
    limit = limit_of(engine)
    for number in range(2):
        await limit.charge("somebody", f"2001:db8::{number}")
    with pytest.raises(TooManyRequests):
        await limit.charge("somebody", "2001:db8::ffff:1")
    await limit.charge("somebody", "2001:db8:0:1::1")


@pytest.mark.parametrize(
    ("outcome", "is_locked"),
    [
        (Unauthenticated("wrong"), True),
        (asyncio.CancelledError(), True),
        (Unavailable("the queue is full"), False),
        (OSError("the database is away"), False),
    ],
)
async def test_only_an_attempt_that_was_not_evaluated_is_refunded(
    engine: Engine, outcome: BaseException, *, is_locked: bool
) -> None:
    limit = limit_of(engine)
    for _ in range(2):
        with pytest.raises(type(outcome)):
            async with limit.charged("somebody", HERE):
                raise outcome
    assert await count_rows(engine) == is_locked
    with pytest.raises(TooManyRequests) if is_locked else nullcontext():
        await limit.charge("somebody", HERE)


async def test_names_of_any_length_and_characters_count_and_are_not_stored(engine: Engine) -> None:
    limit = limit_of(engine)
    for name in ("a\0b", "\ud800", "a" * 100_000):
        await limit.charge(name, HERE)
        await limit.charge(name, HERE)
        with pytest.raises(TooManyRequests):
            await limit.charge(name, HERE)
    async with engine.begin() as connection:
        assert await connection.scalar(text("SELECT max(length(who)) FROM login_failures")) == 16


async def test_failures_can_be_cleared_everywhere(engine: Engine) -> None:
    limit = limit_of(engine)
    for address in (HERE, "192.0.2.2"):
        await limit.charge("somebody", address)
    await limit.charge("another", HERE)
    async with engine.begin() as connection:
        await clear_everywhere(connection, allowance_of(), "somebody")
    assert await count_rows(engine) == 1


async def test_expired_failures_are_deleted_and_beyond_the_maximum_locks_are_deleted_last(
    engine: Engine,
) -> None:
    limit = limit_of(engine)
    await limit.charge("old", HERE)
    await pass_time(engine, FORGOTTEN_SECONDS + 1)
    for name in ("locked", "locked", "newer", "newest"):
        await limit.charge(name, HERE)
    for rows_maximum, left in ((10, 3), (1, 1)):
        async with engine.begin() as connection:
            await delete_forgotten(connection, rows_maximum)
        assert await count_rows(engine) == left
    with pytest.raises(TooManyRequests):
        await limit.charge("locked", HERE)
