"""A content is loaded once for all simultaneous readers, and counts until the last of them is done."""

import asyncio
from typing import Any

import pytest

from comms_api.errors import Unavailable
from comms_api.fairness.budgets import ByteBudget
from comms_api.files.model import Content, content_of
from comms_api.files.sharing import RECENT_BYTES_MAXIMUM, SharedContents, Source
from comms_api.http.answers import SHARE_BYTES, Answers
from comms_api.http1.endpoint import AT_END
from comms_api.settings import Settings

pytestmark = pytest.mark.anyio
MIB = 2**20


async def test_a_content_is_loaded_once_although_one_reader_gives_up() -> None:
    budget, loads, allowed = ByteBudget(100, 100, 60), list[int](), asyncio.Event()
    shared = SharedContents()

    async def load() -> Content:
        loads.append(1)
        await allowed.wait()
        return content_of(b"1234567890")

    waiting = [asyncio.create_task(shared.get(Source("a", 10, load), budget)) for _ in range(5)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.sleep(0)
    allowed.set()
    found = await asyncio.gather(*waiting[1:])
    assert {id(content) for content in found} == {id(found[0])}
    assert (len(loads), budget.held) == (2, 10)  # the first reader gave up while it loaded


async def test_a_copy_counts_until_it_is_released_and_a_failure_counts_nothing() -> None:
    size = RECENT_BYTES_MAXIMUM + 1  # too large to be kept for the next reader
    budget = ByteBudget(size, size, 0.01)
    shared = SharedContents()

    async def load() -> Content:
        return content_of(bytes(size))

    async def fail() -> Content:
        raise Unavailable("No.")

    with pytest.raises(Unavailable, match="No"):
        await shared.get(Source("failing", size, fail), budget)
    copy = await shared.get(Source("a", size, load), budget)
    assert budget.held == size
    with pytest.raises(Unavailable):
        await shared.get(Source("b", size, load), budget)
    del copy
    assert budget.held == 0
    await shared.get(Source("b", size, load), budget)


def scope_of(address: str) -> dict[str, Any]:
    return {"client": (address, 1), "state": {}}


def end(scope: dict[str, Any]) -> None:
    for call in scope["state"].pop(AT_END):
        call()


async def test_the_size_of_a_whole_answer_replaces_its_reservation() -> None:
    answers = Answers(Settings(answer_bytes_in_flight_maximum=128 * MIB))
    page, unread, other = scope_of("192.0.2.1"), scope_of("192.0.2.1"), scope_of("192.0.2.2")
    await answers.hold(page, 16 * MIB)
    answers.count(page, MIB)
    assert answers.memory.held == MIB
    answers.count(unread, 2 * SHARE_BYTES)  # this answer had no reservation
    assert answers.memory.held == MIB + 2 * SHARE_BYTES
    end(unread)
    await answers.hold(other, SHARE_BYTES)
    end(page)
    end(other)
    assert answers.memory.held == 0
