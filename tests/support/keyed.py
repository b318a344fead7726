"""Send batches under idempotency keys while transactions are held."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg
import httpx
from sqlalchemy import make_url

from support.databases import plain_url
from support.server import Server
from support.waiting import PATIENCE


def post_keyed(node: Server, token: str, path: str, key: str, body: bytes, **headers: str) -> httpx.Response:
    headers |= {"Authorization": f"Bearer {token}", "Idempotency-Key": key}
    with httpx.Client(base_url=node.agent_url, verify=node.tls, timeout=PATIENCE) as client:
        return client.post(path, content=body, headers=headers)


@contextmanager
def held(database_url: str, statement: str, *arguments: object) -> Iterator[None]:
    """Hold what a statement locks in a transaction during the block."""
    loop = asyncio.new_event_loop()
    connection = loop.run_until_complete(asyncpg.connect(plain_url(make_url(database_url))))
    try:
        loop.run_until_complete(connection.execute("BEGIN"))
        loop.run_until_complete(connection.execute(statement, *arguments))
        yield
    finally:
        loop.run_until_complete(connection.close())
        loop.close()


def is_waiting(query: Callable[..., list[Any]]) -> bool:
    """Return whether a transaction waits for a lock."""
    waiting = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    return bool(query(waiting))
