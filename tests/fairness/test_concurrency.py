"""A client has a limited number of pieces of work in progress; others wait in order, and give up after a while."""

import asyncio

import pytest

from comms_api.fairness.concurrency import Concurrency

pytestmark = pytest.mark.anyio


async def test_a_piece_beyond_the_maximum_waits_until_another_of_its_client_ends() -> None:
    concurrency = Concurrency(2, 60)
    for client in ("loud", "loud", "quiet"):
        await concurrency.begin(client)
    third, fourth = (asyncio.create_task(concurrency.begin("loud")) for _ in range(2))
    await asyncio.sleep(0)
    assert not third.done()
    concurrency.end("loud")
    await third
    assert not fourth.done()
    concurrency.end("loud")
    await fourth


async def test_a_piece_that_waits_too_long_gives_up_and_takes_no_turn() -> None:
    concurrency = Concurrency(1, 0.01)
    await concurrency.begin("loud")
    with pytest.raises(TimeoutError):
        await concurrency.begin("loud")
    concurrency.end("loud")
    await concurrency.begin("loud")


async def test_a_piece_that_is_cancelled_when_its_turn_comes_lets_the_next_piece_begin() -> None:
    concurrency = Concurrency(1, 60)
    await concurrency.begin("loud")
    gone, following = (asyncio.create_task(concurrency.begin("loud")) for _ in range(2))
    await asyncio.sleep(0)
    concurrency.end("loud")
    gone.cancel()
    await following
    concurrency.end("loud")
    await concurrency.begin("loud")
