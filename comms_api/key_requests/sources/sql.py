"""A table of another database as the source of agents: one statement looks them up, with bound parameters."""

import asyncio
import re
import ssl
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
from sqlalchemy import URL, Text, bindparam, make_url, text
from sqlalchemy.exc import ArgumentError, SQLAlchemyError, StatementError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from comms_api.errors import ConfigurationError
from comms_api.key_requests.answers import BadAnswer
from comms_api.key_requests.model import ExternalAgent, KeySettings, Question, Refusal, printable
from comms_api.key_requests.sources.source import SourceUnavailable, tls_context

CONNECT_SECONDS = 3
RECYCLE_SECONDS = 300
NO_AGENT, SEVERAL_AGENTS = 4, 5

# MariaDB and MySQL name these variables differently; each ignores the other's comment.
_MYSQL_SESSION = (
    "SET SESSION /*M! tx_read_only = 1, max_statement_time = {seconds:g} */"
    " /*!80000 transaction_read_only = 1, max_execution_time = {milliseconds:.0f} */"
)


class SqlSource:
    """A statement on PostgreSQL, MySQL or MariaDB, in sessions that can only read and have a time limit.

    The statement has the parameters `:id` and `:ip`, one of which is NULL, and returns `id`, `name`, `ip` and `key`.
    Raises `ConfigurationError`, which never shows the password, if the URL or the statement cannot be used.
    """

    def __init__(self, url: str, settings: KeySettings) -> None:
        try:
            parsed = make_url(url)
        except (ArgumentError, ValueError):
            raise ConfigurationError("database_url: not a URL such as postgresql://user@host/name") from None
        self._where = f"{parsed.host or 'localhost'}/{parsed.database or ''}"
        self._engine = _engine(parsed, settings)
        self._kinds = set(re.findall(r"(?<!:):(id|ip)\b", settings.statement))
        if "id" not in self._kinds:
            raise ConfigurationError("statement: must have the parameter :id, and :ip to look up addresses")
        self._statement = text(settings.statement).bindparams(*(bindparam(kind, type_=Text) for kind in self._kinds))

    async def close(self) -> None:
        """Close the connections."""
        await self._engine.dispose()

    async def ask(self, question: Question, seconds: float) -> ExternalAgent | Refusal:
        """Return the only agent with this id or address; none and several are refused."""
        try:
            async with asyncio.timeout(seconds):
                rows = await self._rows(question)
        except TimeoutError:
            raise SourceUnavailable(f"{self._where} did not answer within {seconds:g} s") from None
        except (SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            raise SourceUnavailable(f"{self._where}: {_reason(error)}") from None
        if not rows:
            return Refusal(NO_AGENT, f"there is no agent of this {question.kind}")
        if len(rows) > 1:
            return Refusal(SEVERAL_AGENTS, f"there are several agents of this {question.kind}")
        return _agent(rows[0], question)

    async def _rows(self, question: Question) -> list[dict[str, Any]]:
        """Return up to two rows."""
        if question.kind not in self._kinds:
            return []
        parameters = dict.fromkeys(self._kinds) | {question.kind: question.value}
        async with self._engine.connect() as connection:
            result = await connection.execute(self._statement, parameters)
            return [dict(row) for row in result.mappings().fetchmany(2)]


def _engine(url: URL, settings: KeySettings) -> AsyncEngine:
    pool: dict[str, Any] = {
        "pool_size": settings.threads,
        "max_overflow": 0,
        "pool_pre_ping": True,
        "pool_recycle": RECYCLE_SECONDS,
        "hide_parameters": True,
    }
    match url.get_backend_name():
        case "postgresql":
            return create_async_engine("postgresql+asyncpg://", async_creator=_postgresql(url, settings), **pool)
        case "mysql" | "mariadb" as name:
            options = _mysql_options(settings.ca, settings.timeout_seconds)
            try:
                return create_async_engine(url.set(drivername=f"{name}+asyncmy"), connect_args=options, **pool)
            except ImportError:
                raise ConfigurationError("database_url: needs `pip install comms-api[mysql]`") from None
        case _:
            raise ConfigurationError("database_url: must begin with postgresql://, mysql:// or mariadb://")


def _postgresql(url: URL, settings: KeySettings) -> Any:
    """Return a function that connects; asyncpg reads all parameters of the URL as libpq does."""
    dsn = url.set(drivername="postgresql").render_as_string(hide_password=False)
    session = {
        "application_name": "comms-api key requests",
        "default_transaction_read_only": "on",
        "statement_timeout": f"{settings.timeout_seconds * 1000:.0f}",
    }
    return lambda: asyncpg.connect(dsn, timeout=CONNECT_SECONDS, server_settings=session)


def _mysql_options(authorities: Path | None, seconds: float) -> dict[str, Any]:
    tls: dict[str, ssl.SSLContext] = {} if authorities is None else {"ssl": tls_context(authorities)}
    init = _MYSQL_SESSION.format(seconds=seconds, milliseconds=seconds * 1000)
    return {"connect_timeout": CONNECT_SECONDS, "init_command": init, **tls}


def _reason(error: BaseException) -> str:
    """Return what the driver says, without the statement and its parameters."""
    cause = error.orig if isinstance(error, StatementError) and error.orig is not None else error
    return printable(f"{type(cause).__name__}: {cause}")


def _agent(row: dict[str, Any], question: Question) -> ExternalAgent:
    """Return the agent of a row; an id may be a number, and an address may have a separate type."""
    texts = {name: str(value) for name, value in row.items() if value is not None}
    try:
        agent = msgspec.convert(texts, ExternalAgent)
    except msgspec.ValidationError as error:
        raise BadAnswer(str(error)) from None
    if not agent.answers(question):
        raise BadAnswer(f"its agent does not match the requested {question.kind}")
    return agent
