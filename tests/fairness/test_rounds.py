"""Work that is ready at once is spread over rounds of the event loop, and groups take turns."""

import asyncio
import time
from weakref import ref

import pytest

from comms_api.fairness.rounds import BUSY_SECONDS, HANDSHAKES, IDLE_SECONDS, IdleQueue, RoundQueue
from comms_api.fairness.turns import NEW_IN_A_ROW, Turns

pytestmark = pytest.mark.anyio


class Group:
    """A group of pieces."""


async def test_a_client_waits_for_one_piece_of_each_other_group_however_many_pieces_wait() -> None:
    queue, begun = RoundQueue(), list[str]()

    async def begin(group: str) -> None:
        await queue.wait_for_turn(group)
        begun.append(group)

    waiting = [asyncio.create_task(begin(group)) for group in ("loud",) * 5 + ("quiet", "other")]
    await asyncio.gather(*waiting)
    assert begun == ["loud", "quiet", "other", "loud", "loud", "loud", "loud"]


async def test_kinds_of_work_take_turns_however_many_groups_each_has() -> None:
    queue, begun = RoundQueue(), list[str]()

    async def begin(group: str, kind: str) -> None:
        await queue.wait_for_turn(group, kind)
        begun.append(group)

    pieces = [(f"body {number}", "bodies") for number in range(3)] + [("one", "handshakes"), ("one", "handshakes")]
    await asyncio.gather(*(begin(*piece) for piece in pieces))
    assert begun == ["body 0", "one", "body 1", "one", "body 2"]


async def test_a_group_that_has_had_no_turn_goes_before_those_that_have() -> None:
    queue, begun, is_under_way = RoundQueue(), list[str](), asyncio.Event()

    async def begin(group: str) -> None:
        await queue.wait_for_turn(group)
        begun.append(group)
        if len(begun) == 4:
            is_under_way.set()

    loud = [asyncio.create_task(begin(f"loud {number % 3}")) for number in range(9)]
    await is_under_way.wait()
    await begin("quiet")
    assert begun.index("quiet") <= 5
    await asyncio.gather(*loud)


async def test_one_piece_begins_in_each_round_of_the_event_loop() -> None:
    queue, begun = RoundQueue(), list[int]()

    async def begin(number: int) -> None:
        await queue.wait_for_turn("loud")
        begun.append(number)

    waiting = [asyncio.create_task(begin(number)) for number in range(20)]
    most, before = 0, 0
    while len(begun) < 20:
        await asyncio.sleep(0)
        most, before = max(most, len(begun) - before), len(begun)
    assert most == 1
    await asyncio.gather(*waiting)


async def test_cancelled_work_takes_no_turn() -> None:
    queue = RoundQueue()
    waiting = [asyncio.create_task(queue.wait_for_turn(group)) for group in ("loud", "loud", "quiet")]
    await asyncio.sleep(0)
    waiting[0].cancel()
    waiting[1].cancel()
    await waiting[2]
    await queue.wait_for_turn("loud")


async def test_background_work_begins_rarely_on_a_busy_loop_and_continues_once_it_is_idle() -> None:
    queue, begun = IdleQueue(), list[float]()

    async def begin() -> None:
        await queue.wait_for_turn("background")
        begun.append(time.perf_counter())

    waiting = [asyncio.create_task(begin()) for _ in range(100)]
    started = time.perf_counter()
    for _ in range(50):
        time.sleep(0.001)  # noqa: ASYNC251 - keeps the loop busy
        await asyncio.sleep(0)
    assert 1 <= len(begun) <= 1 + (time.perf_counter() - started) / BUSY_SECONDS
    await asyncio.gather(*waiting)


async def test_on_a_busy_loop_a_handshake_of_a_new_address_begins_and_those_of_a_loud_one_wait() -> None:
    queue, begun = IdleQueue(), list[str]()

    async def begin(group: str) -> None:
        await queue.wait_for_turn(group, HANDSHAKES)
        begun.append(group)

    loud = [asyncio.create_task(begin("loud")) for _ in range(100)]
    await asyncio.sleep(0)
    quiet, started = asyncio.create_task(begin("quiet")), time.perf_counter()
    for _ in range(10):
        time.sleep(IDLE_SECONDS)  # noqa: ASYNC251 - keeps the loop busy
        await asyncio.sleep(0)
    assert "quiet" in begun[:3]
    assert begun.count("loud") <= 2 + (time.perf_counter() - started) / BUSY_SECONDS
    await asyncio.gather(quiet, *loud)


async def test_new_groups_do_not_keep_another_group_waiting() -> None:
    turns = Turns()
    turns.join("old")
    turns.grant()
    waiting = turns.join("old")
    for number in range(NEW_IN_A_ROW + 1):
        turns.join(number)
        turns.grant()
    assert waiting.done()


async def test_groups_for_which_nothing_waits_are_forgotten() -> None:
    turns, groups = Turns(), list[ref[Group]]()
    for _ in range(100):
        group = Group()
        groups.append(ref(group))
        turns.join(group)
        turns.grant()
    assert sum(group() is not None for group in groups) <= 2 * NEW_IN_A_ROW
