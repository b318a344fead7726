"""Statements on the driver: failures and cancellations leave no unusable connection in the pool."""

import asyncio
import gc
from weakref import ref

import asyncpg
import pytest
from sqlalchemy import ColumnElement, Integer, Text, bindparam, literal, select, text
from sqlalchemy.ext.compiler import compiles
from support.waiting import PATIENCE

from comms_api.database.connection import Engine, compile_ahead
from comms_api.database.failures import DatabaseError, Duplicate, LateAnswer, MissingPartition, Refusal
from comms_api.database.schema import is_one_of
from comms_api.errors import NotFound

pytestmark = pytest.mark.anyio

WAIT = text("SELECT pg_sleep(:seconds)")
ONE = text("SELECT 1")
FAULT = text("SELECT 1 / (CAST(:zero AS int))")


async def assert_usable(engine: Engine) -> None:
    """Run a statement and a transaction on every connection of the pool in turn."""
    async with engine.connect() as first, engine.connect() as second:
        for connection in (first, second):
            assert await connection.execute(ONE) == [(1,)]
            async with connection.transaction():
                assert await connection.execute(ONE) == [(1,)]


async def test_an_error_rolls_back_and_the_connection_stays_usable(engine: Engine) -> None:
    async with engine.connect() as connection:
        pid = connection.driver.get_server_pid()
    with pytest.raises(DatabaseError):
        async with engine.begin() as connection:
            await connection.execute(FAULT, {"zero": 0})
    async with engine.connect() as connection:
        assert connection.driver.get_server_pid() == pid
    await assert_usable(engine)


@pytest.mark.parametrize("in_transaction", [False, True])
async def test_a_cancellation_during_a_statement_reaches_the_caller(engine: Engine, *, in_transaction: bool) -> None:
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


async def test_a_connection_left_in_a_transaction_is_not_reused(engine: Engine) -> None:
    async def fail() -> None:
        async with engine.connect() as connection:
            await connection.driver.execute("BEGIN")  # as if a transaction was cancelled after its BEGIN
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


class Counted(ColumnElement[int]):
    """A column that counts its compilations."""

    _traverse_internals = ()
    type = Integer()
    compilations = 0


@compiles(Counted)
def compile_counted(_element: Counted, _compiler: object, **_options: object) -> str:
    Counted.compilations += 1
    return "1"


async def test_a_statement_that_was_compiled_ahead_is_not_compiled_again(engine: Engine) -> None:
    compile_ahead([select(Counted())])
    compilations = Counted.compilations
    async with engine.connect() as connection:
        assert await connection.scalar(select(Counted())) == 1
    assert Counted.compilations == compilations > 0


async def test_statements_of_one_shape_differ_in_their_values(engine: Engine) -> None:
    async with engine.connect() as connection:
        for first, second in (("a", "b"), ("c", "d")):
            statement = select(literal(first).label("one"), bindparam("two", type_=Text).label("two"))
            row = await connection.first(statement, {"two": second})
            assert row == (first, second)
            assert (row.one, row["two"]) == (first, second)


async def test_values_that_differ_in_number_are_an_array(engine: Engine) -> None:
    column = literal("b")
    async with engine.connect() as connection:
        for values in ([], ["a"], ["a", "b"]):
            assert await connection.scalar(select(is_one_of(column, values))) is ("b" in values)
        with pytest.raises(TypeError, match="is_one_of"):
            await connection.execute(select(column.in_(["a", "b"])))


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        ("INSERT INTO groups (name) VALUES ('twice'), ('twice')", Duplicate),
        ("SELECT CAST('many' AS int)", Refusal),
        ("SELECT pg_sleep(3600)", LateAnswer),
        ("INSERT INTO event_batches VALUES (gen_random_uuid(), gen_random_uuid(), 1, NULL, '')", MissingPartition),
        ("SELECT nothing", DatabaseError),
    ],
)
async def test_driver_errors_are_translated(engine: Engine, statement: str, kind: type[DatabaseError]) -> None:
    async with engine.connect() as connection:
        await connection.execute(text("SET statement_timeout = '100ms'"))
        with pytest.raises(DatabaseError) as caught:
            await connection.execute(text(statement))
    assert type(caught.value) is kind
    assert isinstance(caught.value.__cause__, asyncpg.PostgresError)
    await assert_usable(engine)


async def test_an_error_of_the_block_rolls_back_and_keeps_the_connection(engine: Engine) -> None:
    async def fail() -> None:
        async with engine.begin() as connection:
            await connection.execute(text("INSERT INTO groups (name) VALUES ('rolled back')"))
            raise NotFound

    async with engine.connect() as connection:
        pid = connection.driver.get_server_pid()
    with pytest.raises(NotFound):
        await fail()
    async with engine.connect() as connection:
        assert connection.driver.get_server_pid() == pid
        assert await connection.first(text("SELECT FROM groups WHERE name = 'rolled back'")) is None


async def test_a_lock_is_held_by_one_session_and_ends_with_its_block(engine: Engine) -> None:
    async def fail() -> None:
        async with engine.connect() as failing, failing.try_lock(7) as is_locked:
            assert is_locked
            raise NotFound

    async with engine.connect() as one, engine.connect() as other:
        async with one.try_lock(7) as is_first, other.try_lock(7) as is_second:
            assert (is_first, is_second) == (True, False)
        async with other.try_lock(7) as is_locked:
            assert is_locked
    with pytest.raises(NotFound):
        await fail()
    async with engine.connect() as connection, asyncio.timeout(PATIENCE):
        while not await connection.scalar(text("SELECT pg_try_advisory_xact_lock(7)")):
            pass
