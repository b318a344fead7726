"""Record the statements that an engine executes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event

from comms_api.database.connection import Engine


@contextmanager
def recorded_statements(engine: Engine) -> Iterator[list[str]]:
    """Record the SQL that the engine's connections execute in the block; asyncpg reports each a little later."""
    statements: list[str] = []

    def record(query: Any) -> None:
        statements.append(query.query)

    def add_logger(connection: Any, _record: object, _proxy: object) -> None:
        connection.driver_connection.add_query_logger(record)

    event.listen(engine.sqlalchemy.sync_engine, "checkout", add_logger)
    yield statements
    event.remove(engine.sqlalchemy.sync_engine, "checkout", add_logger)
