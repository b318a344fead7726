"""The requests of one client leave database connections for other clients."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event
from uuid import UUID

import asyncpg
import httpx
import pytest
from sqlalchemy import make_url
from support.databases import plain_url
from support.others import assert_others_are_served
from support.server import Server
from support.waiting import PATIENCE

from comms_api.app.apis import CLIENT_REQUESTS_MAXIMUM

REQUESTS = 4 * CLIENT_REQUESTS_MAXIMUM
"""More requests than a pool has connections."""


@contextmanager
def locked(url: str, table: str) -> Iterator[None]:
    """Block every statement that reads a table during the block."""
    held, ends = Event(), Event()

    async def hold() -> None:
        connection = await asyncpg.connect(plain_url(make_url(url)))
        async with connection.transaction():
            await connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
            held.set()
            await asyncio.to_thread(ends.wait, PATIENCE)
        await connection.close()

    with ThreadPoolExecutor(1) as thread:
        holding = thread.submit(asyncio.run, hold())
        assert held.wait(PATIENCE)
        try:
            yield
        finally:
            ends.set()
            holding.result()


@pytest.fixture(scope="module")
def management(server: Server) -> httpx.Client:
    return server.management()


@pytest.fixture(scope="module")
def quiet(server: Server, management: httpx.Client) -> UUID:
    return server.enroll(management, "quiet")


def test_requests_of_one_user_that_wait_for_the_database_do_not_stop_other_users(
    server: Server, management: httpx.Client, quiet: UUID, database_url: str
) -> None:
    reader = server.user(management, "loud", "reader")
    with ThreadPoolExecutor(REQUESTS) as threads:
        with locked(database_url, "states"):
            asking = [threads.submit(reader.get, "/states") for _ in range(REQUESTS)]
            assert_others_are_served(server, management, quiet)
        assert {one.result().status_code for one in asking} == {200}
