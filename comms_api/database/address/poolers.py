"""Refuse a pooler that gives each transaction a different session, such as pgbouncer with `pool_mode = transaction`.

Prepared statements, LISTEN, advisory locks and session settings would apply to another client, or to none.
"""

import asyncpg
from sqlalchemy import text

from comms_api.database.connection import Connection, Engine
from comms_api.database.failures import DatabaseError
from comms_api.errors import ConfigurationError

LOOKS = 5
"""The number of queries on both connections: other clients of the pooler may take a session between two queries."""

_STATEMENT_OF_ANOTHER = (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError)
_PID = text("SELECT pg_backend_pid()")


async def refuse_poolers(engine: Engine) -> None:
    """Raise `ConfigurationError` unless each connection keeps its session and accepts the session settings.

    A pooler announces an invented process number, so one statement is enough to check a direct connection.
    """
    try:
        keeps_sessions = await _keeps_sessions(engine)
    except DatabaseError as error:
        cause = error.__cause__
        if isinstance(cause, asyncpg.ProtocolViolationError):
            raise ConfigurationError(
                f"database_url: leads to a pooler that refuses settings ({cause}): connect directly to PostgreSQL"
            ) from None
        if not isinstance(cause, _STATEMENT_OF_ANOTHER):
            raise
        keeps_sessions = False
    if not keeps_sessions:
        raise ConfigurationError(
            "database_url: leads to a pooler that shares sessions (pgbouncer with pool_mode = transaction): connect"
            " directly to PostgreSQL, or use pool_mode = session"
        )


async def _keeps_sessions(engine: Engine) -> bool:
    async with engine.connect() as one:
        if one.driver.get_server_pid() == await _pid(one):
            return True
        async with engine.connect() as other:
            pids = [(await _pid(one), await _pid(other)) for _ in range(LOOKS)]
    return len(set(pids)) == 1 and pids[0][0] != pids[0][1]


async def _pid(connection: Connection) -> int:
    """Return the process id of the PostgreSQL session, in a separate transaction."""
    pid: int = await connection.scalar(_PID)
    return pid
