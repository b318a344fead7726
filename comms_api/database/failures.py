"""Classify errors of the database: an outage passes (503), a refused value is the sender's (400), the rest is a bug.

If an operator changes the password or renames the database under running nodes, that is an outage. A node that starts
stops with that error instead: its settings may be wrong.
"""

import logging

import asyncpg
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from comms_api.errors import ConfigurationError

_REFUSED_NODE = (
    asyncpg.InvalidAuthorizationSpecificationError,  # user, password or pg_hba.conf
    asyncpg.InvalidCatalogNameError,  # no such database
    asyncpg.ObjectNotInPrerequisiteStateError,  # the database does not accept connections
    asyncpg.InsufficientPrivilegeError,
    asyncpg.InvalidSchemaNameError,
)

_OUTAGES: tuple[type[BaseException], ...] = (
    OSError,  # refused, reset, no such socket; TimeoutError is one too
    PoolTimeoutError,
    DisconnectionError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,  # the connection is closed
    asyncpg.InternalClientError,  # it was lost in the middle of a statement
    asyncpg.OperatorInterventionError,  # shutting down, cancelled, still starting
    asyncpg.InsufficientResourcesError,  # disk full, too many connections
    asyncpg.LockNotAvailableError,
    asyncpg.TransactionRollbackError,  # a deadlock, a conflict: it goes through the next time
    asyncpg.ReadOnlySQLTransactionError,  # a primary that has become a standby
    asyncpg.TargetServerAttributeNotMatched,  # the hosts that answer are standbys
    asyncpg.PostgresIOError,
    *_REFUSED_NODE,
)

_REFUSALS = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, asyncpg.ProgramLimitExceededError)


def is_outage(error: BaseException) -> bool:
    """Return whether `error`, or what it was raised from, says that PostgreSQL cannot be used just now."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, DBAPIError) and seen.connection_invalidated:
            return True
        if isinstance(seen, _OUTAGES) and not _is_our_mistake(seen):
            return True
        if is_partition_missing(seen):
            return True
        seen = seen.__cause__ or (seen.orig if isinstance(seen, DBAPIError) else None)
    return False


def _is_our_mistake(error: BaseException) -> bool:
    # asyncpg files wrong arguments under InterfaceError as well.
    return isinstance(error, asyncpg.InterfaceError) and isinstance(error, TypeError | ValueError)


def find_refusal(error: BaseException) -> str | None:
    """Return why PostgreSQL will never take these data, or None when it was something else."""
    cause = driver_error(error)
    return str(cause) if isinstance(cause, _REFUSALS) and not is_partition_missing(cause) else None


def find_mistake(error: BaseException) -> ConfigurationError | None:
    """Return why PostgreSQL refuses this node: its user, password, database or rights; None for other errors."""
    cause = driver_error(error)
    sentence = f"database_url: the database cannot be used: {cause}"
    return ConfigurationError(sentence) if isinstance(cause, _REFUSED_NODE) else None


def describe_outage(error: BaseException) -> str:
    """Return an outage as one line for the log, without the statement and its parameters: these hold agents' data."""
    cause = driver_error(error) or error
    return " ".join(f"{type(cause).__name__}: {cause}".split())


def is_timeout(error: BaseException) -> bool:
    """Return whether PostgreSQL was reached and has not answered in time."""
    return isinstance(driver_error(error), TimeoutError | asyncpg.QueryCanceledError)


def driver_error(error: BaseException) -> BaseException | None:
    """Return asyncpg's error inside SQLAlchemy's."""
    cause: BaseException | None = error
    while isinstance(cause, DBAPIError):
        cause = cause.orig and (cause.orig.__cause__ or cause.orig)
    return cause


def is_partition_missing(error: BaseException) -> bool:
    """Return whether there is no partition for a row: a CHECK that fails has a name."""
    return isinstance(error, asyncpg.CheckViolationError) and error.constraint_name is None


def log_failure(logger: logging.Logger, what: str, error: Exception) -> None:
    """Log that `what` failed: an outage in one line, a bug of ours with where it is."""
    if is_outage(error):
        logger.warning("%s: the database is away (%s)", what, describe_outage(error))
    else:
        logger.error("%s", what, exc_info=error)
