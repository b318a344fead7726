"""Record the statements that an engine executes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine


@contextmanager
def recorded_statements(engine: AsyncEngine) -> Iterator[list[str]]:
    """Record the SQL that the engine's connections execute in the block, through SQLAlchemy or the driver."""
    statements: list[str] = []

    def record(*arguments: Any) -> None:
        statements.append(str(arguments[2]))

    def record_driver(query: Any) -> None:
        statements.append(query.query)

    def add_logger(connection: Any, _record: object, _proxy: object) -> None:
        connection.driver_connection.add_query_logger(record_driver)

    event.listen(engine.sync_engine, "before_cursor_execute", record)
    event.listen(engine.sync_engine, "checkout", add_logger)
    yield statements
    event.remove(engine.sync_engine, "checkout", add_logger)
    event.remove(engine.sync_engine, "before_cursor_execute", record)
