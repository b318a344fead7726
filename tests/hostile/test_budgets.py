"""Budgets grant requests that fit, in turn, and lose nothing when a request is cancelled."""

import asyncio
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.waiting import settle

from comms_api.errors import TooManyRequests, Unavailable
from comms_api.fairness.budgets import CPU_BURST_SECONDS, ByteBudget, CpuBudget

pytestmark = pytest.mark.anyio


def spend_nothing() -> float:
    return 0.0


async def test_clients_take_turns_however_many_bodies_one_of_them_has() -> None:
    budget, order = ByteBudget(100, 100, 60), list[str]()
    await budget.acquire("first", 100)

    async def wait(client: str) -> None:
        await budget.acquire(client, 100)
        order.append(client)

    waiting = [asyncio.create_task(wait(client)) for client in ("loud", "loud", "loud", "quiet")]
    await settle()
    for client in ("first", "loud", "quiet", "loud"):
        budget.release(client, 100)
        await settle()
    assert order == ["loud", "quiet", "loud", "loud"]
    await asyncio.gather(*waiting)


async def test_a_client_at_its_share_does_not_stop_clients_behind_it() -> None:
    budget = ByteBudget(100, 50, 60)
    await budget.acquire("loud", 50)
    waiting = asyncio.create_task(budget.acquire("loud", 50))
    await settle()
    await budget.acquire("quiet", 50)
    budget.release("loud", 50)
    await waiting
    assert budget.held == 100


async def test_a_request_that_waits_too_long_is_refused_and_holds_nothing() -> None:
    budget = ByteBudget(100, 50, 0.01)
    await budget.acquire("loud", 50)
    with pytest.raises(Unavailable, match="use your whole share"):
        await budget.acquire("loud", 10)
    await budget.acquire("other", 50)
    with pytest.raises(Unavailable, match="has no room left"):
        await budget.acquire("third", 10)
    assert budget.held == 100


async def test_a_wait_that_is_cancelled_at_the_moment_of_its_turn_is_skipped() -> None:
    budget = ByteBudget(100, 100, 60)
    await budget.acquire("first", 100)
    waiting = [asyncio.create_task(budget.acquire(client, 100)) for client in ("gone", "next")]
    await settle()
    waiting[0].cancel()
    budget.release("first", 100)
    await waiting[1]
    budget.release("next", 100)
    await asyncio.gather(*waiting, return_exceptions=True)
    await budget.acquire("later", 100)
    assert budget.held == 100


async def test_a_turn_that_is_cancelled_at_the_moment_it_comes_goes_to_the_next_client() -> None:
    budget, read = CpuBudget(60), list[str]()
    tasks = list[asyncio.Task[None]]()

    async def batch(name: str) -> None:
        async with budget.turn("agent", spend_nothing):
            read.append(name)
            if name == "first":
                await settle()
                tasks[1].cancel()

    tasks += [asyncio.create_task(batch(name)) for name in ("first", "gone", "next")]
    await asyncio.gather(*tasks, return_exceptions=True)
    assert read == ["first", "next"]


async def test_a_body_larger_than_the_total_is_accepted_alone() -> None:
    budget = ByteBudget(100, 50, 0.01)
    await budget.acquire("large", 1000)
    with pytest.raises(Unavailable):
        await budget.acquire("other", 1)
    budget.release("large", 1000)
    await budget.acquire("other", 1)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 60), st.booleans()), max_size=30))
def test_no_mix_of_waits_releases_and_cancellations_loses_a_byte(steps: list[tuple[str, int, bool]]) -> None:
    async def run() -> None:
        budget, tasks, held = ByteBudget(100, 60, 60), list[tuple[str, int, asyncio.Task[None]]](), Counter[str]()
        for client, size, is_cancelled in steps:
            tasks.append((client, size, asyncio.create_task(budget.acquire(client, size))))
            await asyncio.sleep(0)
            if is_cancelled:
                tasks[len(tasks) // 2][2].cancel()
            assert budget.held <= 100
        while tasks:
            await settle()
            client, size, task = next((one for one in tasks if one[2].done()), tasks[0])
            assert task.done(), "a wait that fits is never granted"
            tasks.remove((client, size, task))
            if not task.cancelled():
                budget.release(client, size)
        assert (budget.held, held) == (0, Counter())

    asyncio.run(run())


async def test_cpu_time_beyond_the_burst_delays_the_next_batch() -> None:
    budget = CpuBudget(60)
    async with budget.turn("loud", lambda: CPU_BURST_SECONDS + 10):
        pass
    with pytest.raises(TooManyRequests) as refused:
        async with budget.turn("loud", spend_nothing):
            raise AssertionError
    assert refused.value.retry_after_seconds is not None
    assert 30 < refused.value.retry_after_seconds <= 40
    async with budget.turn("quiet", spend_nothing):
        pass


async def test_batches_of_one_client_are_read_one_at_a_time_even_when_some_give_up() -> None:
    budget, running, most = CpuBudget(60), [0], [0]

    async def read() -> None:
        async with budget.turn("agent", spend_nothing):
            running[0] += 1
            most[0] = max(most[0], running[0])
            await asyncio.sleep(0)
            running[0] -= 1

    tasks = [asyncio.create_task(read()) for _ in range(9)]
    await asyncio.sleep(0)
    tasks[3].cancel()
    tasks[5].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert most == [1]
    assert [task.cancelled() for task in tasks].count(True) == 2
    async with budget.turn("agent", spend_nothing):
        pass
