"""Statements on the driver: what fails or is cancelled in the midst of one leaves no useless connection behind."""

import asyncio
import gc
from weakref import ref

import pytest
from sqlalchemy import literal, select, text
from support.waiting import PATIENCE

from comms_api.database.connection import Engine
from comms_api.database.failures import DatabaseError

pytestmark = pytest.mark.anyio

WAIT = text("SELECT pg_sleep(:seconds)")
ONE = text("SELECT 1")
FAULT = text("SELECT 1 / (CAST(:zero AS int))")


async def assert_usable(engine: Engine) -> None:
    """Take every connection of the pool, each in turn, and run a statement and a transaction on it."""
    async with engine.connect() as first, engine.connect() as second:
        for connection in (first, second):
            assert await connection.execute(ONE) == [(1,)]
            async with connection.transaction():
                assert await connection.execute(ONE) == [(1,)]


async def test_a_fault_rolls_back_and_the_connection_lives_on(engine: Engine) -> None:
    async with engine.connect() as connection:
        pid = connection.driver.get_server_pid()
    with pytest.raises(DatabaseError):
        async with engine.begin() as connection:
            await connection.execute(FAULT, {"zero": 0})
    async with engine.connect() as connection:
        assert connection.driver.get_server_pid() == pid
    await assert_usable(engine)


@pytest.mark.parametrize("in_transaction", [False, True])
async def test_who_is_cancelled_in_the_midst_of_a_statement_learns_of_it(
    engine: Engine, *, in_transaction: bool
) -> None:
    async def wait() -> None:
        async with engine.connect() as connection:
            if in_transaction:
                async with connection.transaction():
                    await connection.execute(WAIT, {"seconds": 3600})
            await connection.execute(WAIT, {"seconds": 3600})

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0.2)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(waiting, PATIENCE)
    await assert_usable(engine)


async def test_a_connection_that_is_left_in_a_transaction_is_not_used_again(engine: Engine) -> None:
    async def fail() -> None:
        async with engine.connect() as connection:
            await connection.driver.execute("BEGIN")  # as if that of a transaction had been cancelled too late
            await connection.execute(FAULT, {"zero": 0})

    with pytest.raises(DatabaseError):
        await fail()
    await assert_usable(engine)
    async with engine.connect() as connection:
        await connection.driver.execute("BEGIN")
    async with engine.begin() as other:
        assert await other.scalar(ONE) == 1
    await assert_usable(engine)


async def test_a_statement_that_is_built_for_one_call_is_not_kept(engine: Engine) -> None:
    statement = select(literal(7).label("number"))
    async with engine.connect() as connection:
        assert [await connection.execute(statement) for _ in range(2)] == [[(7,)]] * 2
    kept = ref(statement)
    del statement
    gc.collect()
    assert kept() is None
