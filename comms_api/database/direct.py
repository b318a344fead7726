"""Run the statements of agents' requests on the driver itself, on connections of the engine's pool.

SQLAlchemy writes a statement once; asyncpg then runs it without SQLAlchemy, whose greenlets, contexts and rows take
three times as long as the driver (docs/decisions/0011-direct-statements.md). Each statement is a transaction of its
own unless it is run in `Direct.transaction()`. Rows are asyncpg's: to be unpacked by position.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import asyncpg
import msgspec
from sqlalchemy import ClauseElement, Dialect
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine


class Direct:
    """A connection of the pool as its driver has it."""

    def __init__(self, driver: Any, dialect: Dialect) -> None:
        """Take asyncpg's connection, and the dialect that statements are written in."""
        self.driver = driver
        self._dialect = dialect

    async def execute(self, statement: Any, parameters: Mapping[str, object]) -> list[Any]:
        """Return the rows of a statement; it may not have parameters that become several (`in_`)."""
        compiled = _compile(statement, self._dialect)
        known = {**compiled.constants, **parameters}
        values = [convert(known[name]) if convert else known[name] for name, convert in compiled.arguments]
        rows: list[Any] = await self.driver.fetch(compiled.sql, *values)
        return rows

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """Make the statements of the block one transaction.

        The driver's own raises, when a block is cancelled, that it cannot roll back, and so hides that it was.
        """
        await self.driver.execute("BEGIN")
        try:
            yield
        except asyncpg.PostgresError:
            if not self.driver.is_closed():
                await self.driver.execute("ROLLBACK")
            raise
        await self.driver.execute("COMMIT")


Connection: TypeAlias = AsyncConnection | Direct
"""What a store's function for agents' requests takes: it runs on either."""


@asynccontextmanager
async def direct(engine: AsyncEngine) -> AsyncIterator[Direct]:
    """Take a connection from the engine's pool for the block."""
    pooled = await engine.raw_connection()
    driver: Any = pooled.driver_connection
    try:
        yield Direct(driver, engine.dialect)
    except asyncpg.PostgresError:
        if not driver.is_closed() and driver.is_in_transaction():  # BEGIN, COMMIT or ROLLBACK themselves failed
            pooled.invalidate()
        raise  # an answer like any other
    except BaseException:
        pooled.invalidate()  # it may be in the midst of something
        raise
    finally:
        pooled.close()


class _Compiled(msgspec.Struct, frozen=True):
    sql: str
    arguments: Sequence[tuple[str, Callable[[Any], object] | None]]
    """In order: a parameter, and how its values are made into what the driver takes."""

    constants: dict[str, object]
    """The parameters that are part of the statement."""


_COMPILED = WeakKeyDictionary[Dialect, WeakKeyDictionary[ClauseElement, _Compiled]]()
"""What statements were compiled to. It goes with the statement: most are constants, but one that was built for a single
call may hold thousands of values.
"""


def _compile(statement: ClauseElement, dialect: Dialect) -> _Compiled:
    """Return a statement as the driver runs it; it is compiled once."""
    known = _COMPILED.setdefault(dialect, WeakKeyDictionary())
    if (found := known.get(statement)) is not None:
        return found
    compiled: Any = statement.compile(dialect=dialect)
    converters = {
        name: bind.type.dialect_impl(dialect).bind_processor(dialect) for name, bind in compiled.binds.items()
    }
    constants = {name: bind.value for name, bind in compiled.binds.items() if not bind.required}
    arguments = [(name, converters[name]) for name in compiled.positiontup]
    return known.setdefault(statement, _Compiled(str(compiled), arguments, constants))
