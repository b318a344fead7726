"""Each kind of blocking work has a bounded queue, and one client cannot fill it."""

import asyncio
import os
import threading

import pytest

from comms_api.errors import Unavailable
from comms_api.fairness.executors import BoundedExecutor

pytestmark = pytest.mark.anyio


async def test_one_client_has_a_quarter_of_the_calls_and_other_clients_are_served() -> None:
    executor, release = BoundedExecutor("test", 2, 8), threading.Event()
    held = [asyncio.create_task(executor.run("loud", release.wait)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="Too much of your work for test"):
        await executor.run("loud", release.wait)
    other = asyncio.create_task(executor.run("quiet", threading.current_thread))
    await asyncio.sleep(0)
    release.set()
    assert (await other).name.startswith("test")
    assert await asyncio.gather(*held) == [True, True]
    assert await executor.run("loud", release.wait)


async def test_work_beyond_the_bound_is_refused_and_abandoned_work_counts_until_it_ends() -> None:
    executor, release = BoundedExecutor("test", 1, 2), threading.Event()
    held = [asyncio.create_task(executor.run(client, release.wait)) for client in ("first", "second")]
    await asyncio.sleep(0)
    held[0].cancel()
    with pytest.raises(Unavailable, match="Too much work for test is waiting"):
        await executor.run("third", threading.current_thread)
    release.set()
    assert await held[1]
    assert (await executor.run("first", threading.current_thread)).name.startswith("test")


async def test_work_for_which_no_thread_can_be_started_is_not_counted() -> None:
    executor = BoundedExecutor("test", 1, 4)
    executor._pool.shutdown()  # noqa: SLF001 - it refuses work as it does when the system refuses a thread
    for _ in range(2):  # a client's share is one
        with pytest.raises(Unavailable, match="No thread can be started for test"):
            await executor.run("loud", threading.current_thread)


async def test_threads_for_slow_work_leave_the_processor_to_others() -> None:
    def priority() -> int:
        return os.getpriority(os.PRIO_PROCESS, 0)

    before = priority()
    assert await BoundedExecutor("test", 1, 4, niceness=3).run("client", priority) == before + 3
    assert await BoundedExecutor("test", 1, 4).run("client", priority) == priority() == before
