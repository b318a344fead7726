"""Force an interleaving of transactions: wait until each of them waits for a lock or has ended."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import text

from comms_api.database.connection import Engine
from support.waiting import PATIENCE

_COUNT_BLOCKED = text("""
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND cardinality(pg_blocking_pids(pid)) > 0""")


async def until_blocked(engine: Engine, tasks: "Sequence[asyncio.Future[Any]]", blocked: int | None = None) -> int:
    """Wait until all unfinished tasks, or `blocked` of them, wait for a lock; return how many wait.

    No other session of this database may wait for a lock.
    """
    started = time.monotonic()
    async with engine.connect() as connection:
        while True:
            waiting: int = await connection.scalar(_COUNT_BLOCKED)
            if waiting == (sum(not task.done() for task in tasks) if blocked is None else blocked):
                return waiting
            assert time.monotonic() - started < PATIENCE, f"{waiting} transactions wait for locks"
            await asyncio.sleep(0.001)
