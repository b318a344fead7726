"""Run statements in databases, and create the schema in an empty one."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from uuid import UUID, uuid4

import asyncpg
from sqlalchemy import URL, make_url

from comms_api.database.connect import open_engine
from comms_api.database.connection import Connection, Engine
from comms_api.database.migrate import upgrade_schema
from comms_api.database.partitions import create_partitions
from comms_api.settings import Settings
from support.waiting import PATIENCE

T = TypeVar("T")

PATIENT = Settings(database_timeout_seconds=PATIENCE)
"""Settings for the engine of a test: a large statement takes long on a busy machine."""


def plain_url(url: URL) -> str:
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


def complete(work: Coroutine[Any, Any, T]) -> T:
    """Return the result of a coroutine; a thread runs it, because Playwright's loop may occupy this one."""
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(asyncio.run, work).result()


def run_sql(server: URL, *statements: str) -> None:
    async def run() -> None:
        connection = await asyncpg.connect(plain_url(server))
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    complete(run())


async def migrate(url: URL | str) -> None:
    """Create the schema and the partitions in an empty database."""
    engine = open_engine(url, PATIENT)
    await upgrade_schema(engine)
    await create_partitions(engine)
    await engine.dispose()


@asynccontextmanager
async def rolled_back(engine: Engine) -> AsyncIterator[Connection]:
    """Open a connection in a transaction, and roll it back after the block."""
    async with engine.connect() as connection:
        await connection.driver.execute("BEGIN")
        yield connection
        await connection.driver.execute("ROLLBACK")


async def add_agents(engine: Engine, count: int) -> list[UUID]:
    """Add agents that cannot log in, and return their ids."""
    add = "INSERT INTO agents (id, name, key_hash) SELECT id, id, '' FROM unnest($1::uuid[]) AS id"
    ids = [uuid4() for _ in range(count)]
    async with engine.connect() as connection:
        await connection.driver.execute(add, ids)
    return ids


def querying(url: str) -> Callable[..., list[asyncpg.Record]]:
    """Return a function that runs one statement on a database."""

    def run(statement: str, *arguments: object) -> list[asyncpg.Record]:
        async def fetch() -> list[asyncpg.Record]:
            connection = await asyncpg.connect(plain_url(make_url(url)))
            try:
                return await connection.fetch(statement, *arguments)
            finally:
                await connection.close()

        return complete(fetch())

    return run
