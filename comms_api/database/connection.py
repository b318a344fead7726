"""The one way to run SQL: SQLAlchemy builds statements, pools and migrates; asyncpg, the driver, runs them.

SQLAlchemy took three times as long to run a statement (docs/decisions/0011-direct-statements.md). On a connection of
`Engine.connect`, each statement is its own transaction; `Engine.begin` runs its whole block in one transaction.
This module translates the driver's errors into the errors of `failures`.
"""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from types import MappingProxyType
from typing import Any, TypeAlias, TypeVar

import asyncpg
import msgspec
from sqlalchemy import Executable
from sqlalchemy.dialects import registry
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.util import LRUCache

from comms_api.database.actor import SET_ACTOR, actor_parameters, has_actor
from comms_api.database.failures import DRIVER_ERRORS, DatabaseError, translate
from comms_api.meters import Histogram
from comms_api.spans import span

Answer = TypeVar("Answer")
Parameters: TypeAlias = Mapping[str, Any]

SHAPES_CACHED = 500
NO_PARAMETERS: Parameters = MappingProxyType({})


class Row(asyncpg.Record):
    """A row: unpack it by position, or read a column by name."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        """Return the column of this name."""
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class Connection:
    """A connection of the pool; `driver` is asyncpg's."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    async def execute(self, statement: Executable, parameters: Parameters = NO_PARAMETERS) -> list[Row]:
        """Return all rows."""
        sql, values = compile_statement(statement, parameters)
        rows: list[Row] = await _answer(self.driver.fetch(sql, *values, record_class=Row))
        return rows

    async def first(self, statement: Executable, parameters: Parameters = NO_PARAMETERS) -> Row | None:
        """Return the first row, or None."""
        rows = await self.execute(statement, parameters)
        return rows[0] if rows else None

    async def scalar(self, statement: Executable, parameters: Parameters = NO_PARAMETERS) -> Any:
        """Return the first column of the first row; None if there is no row."""
        rows = await self.execute(statement, parameters)
        return rows[0][0] if rows else None

    async def scalars(self, statement: Executable, parameters: Parameters = NO_PARAMETERS) -> list[Any]:
        """Return the first column of every row."""
        return [row[0] for row in await self.execute(statement, parameters)]

    async def change(self, statement: Executable, parameters: Parameters = NO_PARAMETERS) -> int:
        """Return how many rows the statement inserted, updated or deleted."""
        sql, values = compile_statement(statement, parameters)
        tag: str = await _answer(self.driver.execute(sql, *values))
        return int(tag.rpartition(" ")[2])

    async def stream(self, statement: Executable, rows_at_once: int) -> AsyncGenerator[Row, None]:
        """Yield the rows; only inside a transaction.

        Fetches double in size from one row up to `rows_at_once`, so that a caller who stops early fetches at most about
        twice as many rows as it reads.
        """
        sql, values = compile_statement(statement, NO_PARAMETERS)
        cursor = await _answer(self.driver.cursor(sql, *values, record_class=Row))
        count = 1
        while rows := await _answer(cursor.fetch(count)):
            for row in rows:
                yield row
            count = min(2 * count, rows_at_once)

    @asynccontextmanager
    async def try_lock(self, lock: int) -> AsyncIterator[bool]:
        """Hold an advisory lock during the block unless another session holds it; yield whether it is held.

        If the block fails, the connection is closed, which releases the lock.
        """
        [[is_locked]] = await _answer(self.driver.fetch("SELECT pg_try_advisory_lock($1)", lock))
        try:
            yield is_locked
        except BaseException:
            self.driver.terminate()
            raise
        if is_locked:
            await _answer(self.driver.fetch("SELECT pg_advisory_unlock($1)", lock))

    async def take_turns(self, lock: int) -> None:
        """Wait for an advisory lock and hold it until this transaction ends."""
        await _answer(self.driver.fetch("SELECT pg_advisory_xact_lock($1)", lock))

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """Make the statements of the block one transaction.

        A cancelled block is not rolled back here, since its connection is closed. The driver's own transactions raise
        an error then, because they cannot roll back, and so hide the cancellation.
        """
        await _answer(self.driver.execute("BEGIN"))
        try:
            yield
        except Exception:
            if not self.driver.is_closed():
                with suppress(DatabaseError):
                    await _answer(self.driver.execute("ROLLBACK"))
            raise
        with span("commit"):
            await _answer(self.driver.execute("COMMIT"))


class Engine:
    """Lends connections from a pool; migrations use `sqlalchemy`, the engine that owns the pool."""

    def __init__(self, sqlalchemy: AsyncEngine) -> None:
        self.sqlalchemy = sqlalchemy
        self.waits = Histogram()
        """The time to lend each connection."""

    def pool_counts(self) -> dict[str, float]:
        """Return how many connections of the pool are in use, and how many are idle."""
        pool: Any = self.sqlalchemy.pool
        return {"in_use": float(pool.checkedout()), "idle": float(pool.checkedin())}

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Connection]:
        """Lend a connection; outside `Connection.transaction` each statement is its own transaction."""
        begun_at = time.perf_counter()
        pooled = await _answer(self.sqlalchemy.raw_connection())
        self.waits.observe(time.perf_counter() - begun_at)
        driver: Any = pooled.driver_connection
        try:
            yield Connection(driver)
        except Exception:
            if not driver.is_closed() and driver.is_in_transaction():  # BEGIN, COMMIT or ROLLBACK themselves failed
                pooled.invalidate()
            raise
        except BaseException:
            pooled.invalidate()  # a statement may be running
            raise
        finally:
            pooled.close()

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[Connection]:
        """Lend a connection for one transaction, attributed to the actor of this task if it has one."""
        async with self.connect() as connection, connection.transaction():
            if has_actor():
                await connection.execute(SET_ACTOR, actor_parameters())
            yield connection

    async def dispose(self) -> None:
        """Close the connections that are not in use."""
        await self.sqlalchemy.dispose()


async def _answer(call: Awaitable[Answer]) -> Answer:
    try:
        return await call
    except DRIVER_ERRORS as error:
        translated = translate(error)
        raise translated from translated.__cause__


def _encode_json(value: Any) -> str:
    return bytes(value).decode() if isinstance(value, msgspec.Raw) else msgspec.json.encode(value).decode()


_DIALECT = registry.load("postgresql.asyncpg")(json_serializer=_encode_json)


class _Argument(msgspec.Struct, frozen=True):
    name: str
    position: int | None
    """The index of its value among the statement's values; None if it is a parameter."""

    convert: Callable[[Any], object] | None
    """Converts a value to a form that the driver accepts."""

    def value(self, parameters: Parameters, values: Sequence[Any]) -> object:
        value = parameters[self.name] if self.position is None else values[self.position].value
        return value if self.convert is None else self.convert(value)


class _Shape(msgspec.Struct, frozen=True):
    """The common part of statements that differ only in their values."""

    sql: str
    arguments: Sequence[_Argument]


_SHAPES: LRUCache[Any, _Shape] = LRUCache(SHAPES_CACHED)


def compile_statement(statement: Any, parameters: Parameters) -> tuple[str, list[object]]:
    """Return a statement's SQL and arguments; each shape is compiled once, since that takes about a millisecond."""
    shape, values = _shape_and_values(statement)
    return shape.sql, [argument.value(parameters, values) for argument in shape.arguments]


def compile_ahead(statements: Iterable[Executable]) -> None:
    """Compile statements that would otherwise take several milliseconds of the first request that needs them."""
    for statement in statements:
        _shape_and_values(statement)


def _shape_and_values(statement: Any) -> tuple[_Shape, Sequence[Any]]:
    key = statement._generate_cache_key()  # noqa: SLF001 - as SQLAlchemy's examples of caching do
    shape = _SHAPES.get(key.key)
    if shape is None:
        shape = _SHAPES[key.key] = _shape(statement, key.bindparams)
    return shape, key.bindparams


def _shape(statement: Any, values: Sequence[Any]) -> _Shape:
    compiled = statement.compile(dialect=_DIALECT)
    if compiled.post_compile_params:
        raise TypeError(f"is_one_of() must take the place of in_(): {compiled}")
    positions = {value.key: position for position, value in enumerate(values)}
    binds = ((name, compiled.binds[name]) for name in compiled.positiontup)
    arguments = [
        _Argument(
            name,
            None if bind.required else positions[bind.key],
            bind.type.dialect_impl(_DIALECT).bind_processor(_DIALECT),
        )
        for name, bind in binds
    ]
    return _Shape(str(compiled), arguments)
