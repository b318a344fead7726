"""The one way to the database: a given URL, or the embedded server of the data directory.

`postgresql://user:password@host:5432/name?sslmode=require` is the form operators know; drivers' own forms work too.
"""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import msgspec
from sqlalchemy import URL, event, make_url
from sqlalchemy.exc import ArgumentError, DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from comms_api.database.actor import tell_actor
from comms_api.database.embedded import embedded_postgres
from comms_api.errors import ConfigurationError
from comms_api.settings import Settings

CONNECT_TIMEOUT_SECONDS = 3.0

SESSION = {
    "application_name": "comms-api",
    "timezone": "UTC",
    "jit": "off",
    # Statements are planned once and kept. A plan that was made while a table was all but empty must not read the whole
    # of it when it is full: whatever has an index goes by it.
    "enable_seqscan": "off",
}


def driver_url(url: str | URL) -> URL:
    """Return `url` as SQLAlchemy and asyncpg want it; raises `ConfigurationError` without showing a password."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise ConfigurationError("database_url: not a URL such as postgresql://user@host:5432/name") from None
    if parsed.get_backend_name() not in {"postgresql", "postgres"}:
        raise ConfigurationError("database_url: must begin with postgresql://")
    query = dict(parsed.query)
    if sslmode := query.pop("sslmode", None):
        query["ssl"] = sslmode
    return parsed.set(drivername="postgresql+asyncpg", query=query)


def open_engine(url: str | URL, settings: Settings, read_json: Callable[[str], object] = msgspec.Raw) -> AsyncEngine:
    """Return an engine whose pool never hands out a connection that the server has closed.

    JSON is handed on as the bytes it is; only Alembic, which compares it, asks for it to be read.
    """
    engine = create_async_engine(
        driver_url(url),
        pool_size=settings.database_pool_size,
        max_overflow=0,
        pool_timeout=settings.database_timeout_seconds,
        pool_use_lifo=True,  # the connection that was used last has most statements prepared and planned
        json_serializer=_encode_json,
        json_deserializer=read_json,
        connect_args={
            "timeout": CONNECT_TIMEOUT_SECONDS,
            "command_timeout": settings.database_timeout_seconds,
            "server_settings": SESSION,
        },
    )
    event.listen(engine.sync_engine, "checkout", _refuse_closed)
    event.listen(engine.sync_engine, "begin", tell_actor)
    return engine


def in_autocommit(engine: AsyncEngine) -> AsyncEngine:
    """Return the engine, on the same pool, for transactions of one statement: each is one round trip, not three."""
    return engine.execution_options(isolation_level="AUTOCOMMIT")


def _encode_json(value: Any) -> str:
    return bytes(value).decode() if isinstance(value, msgspec.Raw) else msgspec.json.encode(value).decode()


def _refuse_closed(connection: Any, _record: object, _proxy: object) -> None:
    # asyncpg knows at once when the server goes away, so this costs no round trip, unlike a pre-ping.
    if connection.driver_connection.is_closed():
        raise DisconnectionError


@contextmanager
def database_address(settings: Settings) -> Iterator[str]:
    """Yield the URL to use, with the embedded server running as long as no URL is given."""
    if settings.database_url is not None:
        yield settings.database_url
    else:
        with embedded_postgres(settings.data_dir, run_as=settings.embedded_postgres_user) as cluster:
            yield cluster.url


@asynccontextmanager
async def database(settings: Settings, read_json: Callable[[str], object] = msgspec.Raw) -> AsyncIterator[AsyncEngine]:
    """Open an engine for as long as the block lasts."""
    with database_address(settings) as url:
        engine = open_engine(url, settings, read_json)
        try:
            yield engine
        finally:
            await engine.dispose()
