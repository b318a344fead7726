"""Database errors: outages are temporary (503), refused values are the client's fault (400), others are bugs.

DatabaseError
├── Refusal                 PostgreSQL will never accept these data
│   └── Duplicate           a row with this key exists
└── Outage                  PostgreSQL cannot be used just now
    ├── LateAnswer          it was reached but has not answered in time
    ├── MissingPartition    no partition exists for a row
    └── RefusedNode         it refuses our user, password or database

For a running node, a changed password or a renamed database is an outage. A starting node exits with that error
instead, since its settings may be wrong.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
from sqlalchemy.connectors.asyncio import AsyncAdapt_Error
from sqlalchemy.exc import DBAPIError, DisconnectionError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from comms_api.errors import ConfigurationError


class DatabaseError(Exception):
    """A statement failed; the text is PostgreSQL's, the cause the driver's error."""


class Refusal(DatabaseError):
    """PostgreSQL will never accept these data."""


class Duplicate(Refusal):
    """A row with this key exists."""


class Outage(DatabaseError):
    """PostgreSQL cannot be used just now."""


class LateAnswer(Outage):
    """PostgreSQL was reached but has not answered in time."""


class MissingPartition(Outage):
    """No partition exists for a row."""


class RefusedNode(Outage):
    """PostgreSQL refuses our user, password or database."""


_KINDS: tuple[tuple[type[DatabaseError], tuple[type[BaseException], ...]], ...] = (
    (Duplicate, (asyncpg.UniqueViolationError,)),
    (Refusal, (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, asyncpg.ProgramLimitExceededError)),
    (LateAnswer, (TimeoutError, asyncpg.QueryCanceledError)),
    (
        RefusedNode,
        (
            asyncpg.InvalidAuthorizationSpecificationError,  # user, password or pg_hba.conf
            asyncpg.InvalidCatalogNameError,  # no such database
            asyncpg.ObjectNotInPrerequisiteStateError,  # the database does not accept connections
            asyncpg.InsufficientPrivilegeError,
            asyncpg.InvalidSchemaNameError,
        ),
    ),
    (
        Outage,
        (
            OSError,  # refused, reset, no such socket
            PoolTimeoutError,
            DisconnectionError,
            asyncpg.PostgresConnectionError,
            asyncpg.InterfaceError,  # the connection is closed
            asyncpg.InternalClientError,  # it was lost in the middle of a statement
            asyncpg.OperatorInterventionError,  # shutting down, still starting
            asyncpg.InsufficientResourcesError,  # disk full, too many connections
            asyncpg.LockNotAvailableError,
            asyncpg.TransactionRollbackError,  # a deadlock or a conflict: a retry succeeds
            asyncpg.ReadOnlySQLTransactionError,  # a primary that has become a standby
            asyncpg.TargetServerAttributeNotMatched,  # the hosts that answer are standbys
            asyncpg.PostgresIOError,
        ),
    ),
)
"""The driver's errors of each kind; the first match counts."""

DRIVER_ERRORS = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    SQLAlchemyError,  # of its pool
    AsyncAdapt_Error,  # its name for the driver's errors while a connection is opened
)


def translate(error: BaseException) -> DatabaseError:
    """Convert an error of the driver, or of SQLAlchemy around it, into a `DatabaseError`."""
    if isinstance(error, DatabaseError):
        return error
    if isinstance(error, DBAPIError) and error.orig is not None:
        return translate(error.orig)
    if isinstance(error, AsyncAdapt_Error) and error.__cause__ is not None:
        return translate(error.__cause__)
    kind = next((kind for kind, driver_errors in _KINDS if isinstance(error, driver_errors)), DatabaseError)
    if isinstance(error, asyncpg.CheckViolationError) and error.constraint_name is None:
        kind = MissingPartition  # a failed CHECK constraint has a name
    if isinstance(error, asyncpg.InterfaceError) and isinstance(error, TypeError | ValueError):
        kind = DatabaseError  # asyncpg raises InterfaceError for wrong arguments as well
    translated = kind(str(error))
    translated.__cause__ = error
    return translated


def is_outage(error: BaseException) -> bool:
    """Return whether `error`, or an error that it was raised from, is an outage."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(translate(cause), Outage):
            return True
        cause = cause.__cause__
    return False


def find_mistake(error: BaseException) -> ConfigurationError | None:
    """Return the error of a node whose user, password, database or permissions are refused; None for other errors."""
    translated = translate(error)
    sentence = f"database_url: the database cannot be used: {translated}"
    return ConfigurationError(sentence) if isinstance(translated, RefusedNode) else None


@contextmanager
def requiring_database() -> Iterator[None]:
    """Raise `ConfigurationError` for an outage in the block, since nothing tries again after it."""
    try:
        yield
    except ConfigurationError:  # of a mistake that `find_mistake` has found: it says all
        raise
    except Exception as error:
        if is_outage(error):
            raise ConfigurationError(f"database_url: the database cannot be used: {describe_outage(error)}") from error
        raise


def describe_outage(error: BaseException) -> str:
    """Return one log line about an outage; omit the statement and parameters, which hold agents' data."""
    cause = translate(error).__cause__ or error
    return " ".join(f"{type(cause).__name__}: {cause}".split())


def explain_outage(error: BaseException) -> tuple[str, str] | None:
    """Return a summary and the cause of an outage; None for other errors."""
    return ("the database is away", describe_outage(error)) if is_outage(error) else None


def log_failure(logger: logging.Logger, message: str, error: Exception) -> None:
    """Log a message with its cause: an outage as one line, a bug with its traceback."""
    if outage := explain_outage(error):
        logger.warning("%s: %s (%s)", message, *outage)
    else:
        logger.error("%s", message, exc_info=error)
