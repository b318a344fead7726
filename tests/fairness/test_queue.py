"""A queue bounds the running work, the waiting work, and the time of each wait."""

import asyncio

import pytest
from support.waiting import PATIENCE, until

from comms_api.errors import Unavailable
from comms_api.fairness.queue import Queue


async def work(queue: Queue, client: str, done: list[str], end: asyncio.Event) -> None:
    async with queue.turn(client):
        await end.wait()
        done.append(client)


@pytest.mark.anyio
async def test_clients_take_turns_and_a_full_queue_refuses_work() -> None:
    queue, done, end = Queue("enrollments", 1, 8, PATIENCE), list[str](), asyncio.Event()
    tasks = [asyncio.create_task(work(queue, client, done, end)) for client in ("busy", "busy", "busy", "other")]
    await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="Too many enrollments are waiting"):
        await work(queue, "busy", done, end)  # which has a quarter of eight waiting
    tasks += [asyncio.create_task(work(queue, f"client {number}", done, end)) for number in range(5)]
    await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="Too many enrollments are waiting"):
        await work(queue, "late", done, end)
    end.set()
    await asyncio.gather(*tasks)
    assert done[:4] == ["busy", "busy", "other", "client 0"]
    assert sorted(done[4:]) == ["busy", "client 1", "client 2", "client 3", "client 4"]


@pytest.mark.anyio
async def test_work_waits_for_a_bounded_time_and_its_place_is_free_afterwards() -> None:
    queue, done, end = Queue("enrollments", 1, 1, 0.01), list[str](), asyncio.Event()
    first = asyncio.create_task(work(queue, "first", done, end))
    await asyncio.sleep(0)
    for _ in range(2):
        with pytest.raises(Unavailable, match="Too many enrollments are in progress"):
            await work(queue, "second", done, end)
    end.set()
    await until(first.done)
    await work(queue, "second", done, end)
    assert done == ["first", "second"]
