"""Work that is ready at once is spread over rounds of the event loop, and groups take turns."""

import asyncio

import pytest

from comms_api.fairness.rounds import RoundQueue

pytestmark = pytest.mark.anyio


async def test_a_client_waits_for_one_piece_of_each_other_group_however_many_that_has() -> None:
    queue, begun = RoundQueue(), list[str]()

    async def begin(group: str) -> None:
        await queue.wait_for_turn(group)
        begun.append(group)

    waiting = [asyncio.create_task(begin(group)) for group in ("loud",) * 5 + ("quiet", "other")]
    await asyncio.gather(*waiting)
    assert begun == ["loud", "quiet", "other", "loud", "loud", "loud", "loud"]


@pytest.mark.parametrize("per_round", [1, 4])
async def test_no_more_begin_in_a_round_of_the_event_loop(per_round: int) -> None:
    queue, begun = RoundQueue(per_round), list[int]()

    async def begin(number: int) -> None:
        await queue.wait_for_turn("loud")
        begun.append(number)

    waiting = [asyncio.create_task(begin(number)) for number in range(20)]
    most, before = 0, 0
    while len(begun) < 20:
        await asyncio.sleep(0)
        most, before = max(most, len(begun) - before), len(begun)
    assert most == per_round
    await asyncio.gather(*waiting)


async def test_work_that_was_given_up_takes_no_turn() -> None:
    queue = RoundQueue()
    waiting = [asyncio.create_task(queue.wait_for_turn(group)) for group in ("loud", "loud", "quiet")]
    await asyncio.sleep(0)
    waiting[0].cancel()
    waiting[1].cancel()
    await waiting[2]
    await queue.wait_for_turn("loud")
