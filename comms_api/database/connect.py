"""Connect to the database: to `database_url`, or to the embedded server in the data directory."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import URL, event
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import create_async_engine

from comms_api.database.address.hosts import can_be_written, connect_writable
from comms_api.database.address.url import driver_url
from comms_api.database.connection import Engine
from comms_api.database.failures import find_mistake
from comms_api.duties.repeating import Duty
from comms_api.embedded_postgresql.cluster import Cluster, embedded_postgres
from comms_api.settings import Settings

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_SECONDS = 3.0
"""For each host; several are tried at once."""

COURTESY_SECONDS = 1.0
"""Client-side grace period on top of `statement_timeout`; after it, the server or a COMMIT hangs."""

REVIVAL_SECONDS = 3.0
"""The interval at which a node checks that its embedded server runs."""

DISPOSE_SECONDS = 3.0

SESSION = {
    "application_name": "comms-api",
    "timezone": "UTC",
    "jit": "off",
    # Plans of prepared statements are kept. A plan made for an almost empty table must not scan the whole table once it
    # is large, so indexes are always preferred.
    "enable_seqscan": "off",
    # A cancelled statement only loses its connection: PostgreSQL would continue it until `statement_timeout`.
    "client_connection_check_interval": "1s",
}

DISCONNECTED_AFTER = "comms_api.disconnected_after"
"""The session setting that holds how many seconds an agent may be silent and still count as active."""


def open_engine(url: str | URL, settings: Settings, read_json: Callable[[str], object] = msgspec.Raw) -> Engine:
    """Return an engine whose pool discards connections that are closed or whose server has become a standby.

    By default JSON stays as raw bytes; only Alembic, which compares it, passes a decoder.
    """
    _ignore_unreachable_home()
    engine = create_async_engine(
        driver_url(url),
        pool_size=settings.database_pool_size,
        max_overflow=0,
        pool_timeout=settings.database_timeout_seconds,
        pool_use_lifo=True,  # the most recently used connection has the most prepared statements
        json_deserializer=read_json,
        connect_args={
            "async_creator_fn": connect_writable,
            "timeout": CONNECT_TIMEOUT_SECONDS,
            "command_timeout": settings.database_timeout_seconds + COURTESY_SECONDS,
            "server_settings": SESSION
            | {
                "statement_timeout": f"{settings.database_timeout_seconds:.3f}s",
                DISCONNECTED_AFTER: f"{settings.silence_seconds:g}s",
            },
        },
    )
    event.listen(engine.sync_engine, "checkout", _refuse_unusable)
    return Engine(engine)


def _ignore_unreachable_home() -> None:
    """Let a node connect that cannot enter its home folder, as under systemd's ProtectHome.

    asyncpg looks for `.pgpass` and certificates there and fails, whereas libpq continues.
    """
    try:
        (Path.home() / ".pgpass").exists()
    except RuntimeError:
        return  # it has none
    except PermissionError:
        os.environ["HOME"] = os.devnull


def _refuse_unusable(connection: Any, _record: object, _proxy: object) -> None:
    # asyncpg notices at once when the server disconnects, so unlike a pre-ping this needs no round trip.
    driver = connection.driver_connection
    if not can_be_written(driver) or driver.is_in_transaction():
        raise DisconnectionError


class Address(msgspec.Struct, frozen=True):
    """The URL of the database, and the embedded server if that is the database."""

    url: str
    embedded: Cluster | None = None

    def duties(self) -> list[Duty]:
        """Return the duty that restarts the embedded server whenever it has stopped; it is due at once."""
        if self.embedded is None:
            return []
        # Only one call runs at a time, so this takes at most one of the loop's threads.
        duty = Duty("embedded PostgreSQL", partial(asyncio.to_thread, self.embedded.revive), REVIVAL_SECONDS)
        duty.wake.set()
        return [duty]


@contextmanager
def database_address(settings: Settings) -> Iterator[Address]:
    """Yield the address of the database; without `database_url`, run the embedded server during the block."""
    if settings.database_url is not None:
        yield Address(settings.database_url)
    else:
        with embedded_postgres(settings.data_dir, run_as=settings.embedded_postgres_user) as cluster:
            yield Address(cluster.url, cluster)


@asynccontextmanager
async def database(settings: Settings, read_json: Callable[[str], object] = msgspec.Raw) -> AsyncIterator[Engine]:
    """Open an engine for the block; raises `ConfigurationError` if PostgreSQL refuses the node."""
    with database_address(settings) as address:
        engine = open_engine(address.url, settings, read_json)
        try:
            yield engine
        except Exception as error:
            if mistake := find_mistake(error):
                raise mistake from error
            raise
        finally:
            with suppress(TimeoutError):
                async with asyncio.timeout(DISPOSE_SECONDS):
                    await engine.dispose()
