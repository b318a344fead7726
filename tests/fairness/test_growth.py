"""Admitted requests grow until they are complete, and the budget follows the rate at which the node finishes them."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.waiting import PATIENCE, settle

from comms_api.errors import Unavailable
from comms_api.fairness.admission import TARGET_SECONDS, AdaptiveBudget, Holding

pytestmark = pytest.mark.anyio

TOTAL, LARGEST, STEP = 800, 300, 10


async def receive(budget: AdaptiveBudget, name: str, room: int, size: int) -> None:
    """Hold a request that is admitted with some room and grows to its size, as a body does."""
    holding = Holding(name, may_grow=room < size)
    await budget.hold(holding, room)
    try:
        while holding.size < size:
            await asyncio.sleep(0)
            await budget.hold(holding, min(STEP, size - holding.size))
            assert budget.held <= TOTAL
        budget.complete(holding, size)
        await asyncio.sleep(0)
    finally:
        budget.complete(holding, 0)


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(1, LARGEST)), min_size=1, max_size=40))
def test_requests_that_together_need_more_than_the_total_all_grow_until_they_are_complete(
    requests: list[tuple[int, int]],
) -> None:
    async def run() -> None:
        budget = AdaptiveBudget(TOTAL, LARGEST, PATIENCE)
        budget.learn(TOTAL, TOTAL, TARGET_SECONDS / 2)
        assert budget.limit == TOTAL
        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
            for number, (room, size) in enumerate(requests):
                group.create_task(receive(budget, str(number), min(room, size), size))
        assert budget.held == 0

    asyncio.run(run())


async def test_a_request_that_was_admitted_grows_before_others_are_admitted() -> None:
    budget, first = AdaptiveBudget(TOTAL, TOTAL, PATIENCE), Holding("first")
    await budget.hold(first, budget.limit)
    waiting = asyncio.create_task(budget.hold(Holding("second"), 10))
    await settle()
    await budget.hold(first, TOTAL - first.size)
    assert budget.held == TOTAL
    await settle()
    assert not waiting.done()
    budget.complete(first, 0)
    await waiting


async def test_a_request_whose_client_stalls_does_not_keep_the_others_from_growing() -> None:
    budget, stalled, other = AdaptiveBudget(TOTAL, LARGEST, PATIENCE), Holding("stalled"), Holding("other")
    await budget.hold(stalled, 10)
    await budget.hold(other, 10)
    waiting = asyncio.create_task(budget.hold(other, TOTAL - LARGEST))
    await settle()
    assert not waiting.done()  # the room is left for the first
    budget.defer(stalled)
    await waiting
    remaining = asyncio.create_task(budget.hold(stalled, LARGEST))
    await settle()
    assert not remaining.done()
    budget.complete(other, 0)
    await remaining


async def test_a_request_that_does_not_grow_may_use_the_room_that_is_left_for_one_that_grows() -> None:
    budget = AdaptiveBudget(TOTAL, LARGEST, 0.01)
    budget.learn(TOTAL, TOTAL, TARGET_SECONDS / 2)
    for number in range(5):
        await budget.hold(Holding(number), 100)
    with pytest.raises(Unavailable):
        await budget.hold(Holding("growing"), 100)
    for number in range(3):
        await budget.hold(Holding(f"whole {number}", may_grow=False), 100)
    assert budget.held == TOTAL


async def test_growth_that_is_refused_or_cancelled_holds_nothing_and_lets_others_continue() -> None:
    budget, first, second = AdaptiveBudget(TOTAL, LARGEST, 0.01), Holding("first"), Holding("second")
    await budget.hold(first, 10)
    await budget.hold(second, 10)
    with pytest.raises(Unavailable, match="no room left for large requests"):
        await budget.hold(second, TOTAL - LARGEST)
    waiting = asyncio.create_task(budget.hold(second, TOTAL - LARGEST))
    await settle()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert budget.held == 20
    await budget.hold(second, 10)


async def test_a_request_larger_than_the_limit_waits_for_other_requests_but_not_for_a_client_that_stalls() -> None:
    budget = AdaptiveBudget(8_000, 1_000, 0.01)
    large = budget.limit + 1
    first, small = Holding("first"), Holding("small")
    await budget.hold(Holding("stalled"), 1)
    await budget.hold(first, large)
    with pytest.raises(Unavailable):
        await budget.hold(Holding("second"), large)
    budget.shrink(first, 0)
    await budget.hold(small, budget.limit // 2)
    with pytest.raises(Unavailable):
        await budget.hold(Holding("second"), large)


@pytest.mark.parametrize("bytes_per_second", [100, 1_000, 5_000, 100_000])
def test_as_much_is_admitted_as_is_finished_in_the_target_time(bytes_per_second: int) -> None:
    budget = AdaptiveBudget(8_000, 1_000, 60)
    for _ in range(2_000):
        budget.learn(10, budget.limit, budget.limit / bytes_per_second)
    expected = min(8_000, max(1_000, bytes_per_second * TARGET_SECONDS))
    assert budget.limit == pytest.approx(expected, rel=0.05)


@given(
    st.lists(st.tuples(st.integers(0, 500), st.integers(0, 8_000), st.floats(0, 100)), max_size=50),
)
def test_a_request_moves_the_limit_by_at_most_its_own_bytes(finished: list[tuple[int, int, float]]) -> None:
    budget = AdaptiveBudget(8_000, 1_000, 60)
    for size, held, seconds in finished:
        before = budget.limit
        budget.learn(size, held, seconds)
        assert abs(budget.limit - before) <= size
        assert 1_000 <= budget.limit <= 8_000


async def test_a_client_has_an_eighth_of_the_admitted_bytes_or_one_request() -> None:
    budget = AdaptiveBudget(8_000, 1_000, 0.01)
    await budget.hold(Holding("loud"), 500)
    with pytest.raises(Unavailable, match="use your whole share"):
        await budget.hold(Holding("loud"), 1)
    budget.learn(7_000, 7_000, TARGET_SECONDS / 2)
    assert budget.limit == 8_000
    await budget.hold(Holding("loud"), 500)
