"""Tell an outage of the database from a bug of ours: the first is 503 and passes, the second is 500."""

import asyncpg
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

_OUTAGES: tuple[type[BaseException], ...] = (
    OSError,  # refused, reset, no such socket; TimeoutError is one too
    PoolTimeoutError,
    DisconnectionError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,  # the connection is closed
    asyncpg.OperatorInterventionError,  # shutting down, cancelled, still starting
    asyncpg.InsufficientResourcesError,  # disk full, too many connections
    asyncpg.LockNotAvailableError,
    asyncpg.ReadOnlySQLTransactionError,  # a primary that has become a standby
    asyncpg.PostgresIOError,
)


def is_outage(error: BaseException) -> bool:
    """Return whether `error`, or what it was raised from, says that PostgreSQL cannot be used just now."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, DBAPIError) and seen.connection_invalidated:
            return True
        if isinstance(seen, _OUTAGES) and not _is_our_mistake(seen):
            return True
        seen = seen.__cause__ or (seen.orig if isinstance(seen, DBAPIError) else None)
    return False


def _is_our_mistake(error: BaseException) -> bool:
    # asyncpg files wrong arguments under InterfaceError as well.
    return isinstance(error, asyncpg.InterfaceError) and isinstance(error, TypeError | ValueError)
