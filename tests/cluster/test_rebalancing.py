"""Crowded nodes redirect some of their agents, slowly, and no more of them than necessary."""

import asyncio
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import httpx
import pytest
from support.batches import command
from support.heartbeats import polls_held, wait_for_heartbeats
from support.polls import Poll, held_polls
from support.server import Server, running_server
from support.waiting import PATIENCE, until, wait_until

from comms_api.cluster.membership import REDIRECTED_PER_HEARTBEAT
from comms_api.cluster.model import HEARTBEAT_SECONDS

CROWD, FEW = 60, 10
EVEN = (CROWD + FEW) // 2


@pytest.fixture(scope="module")
def nodes(folder: Path, database_url: str) -> Iterator[tuple[Server, Server]]:
    with (
        running_server(folder, database_url, node_name="crowded", poll_wait_seconds=3600) as crowded,
        running_server(folder, database_url, node_name="idle", poll_wait_seconds=3600) as idle,
    ):
        yield crowded, idle


def held(polls: list[Poll]) -> int:
    return sum(poll.is_held for poll in polls)


async def wait_until_held(polls: list[Poll], count: int) -> list[tuple[float, int]]:
    """Wait until this many polls are held; return how many were held at which times."""
    counts = [(time.monotonic(), held(polls))]

    def have_ended() -> bool:
        counts.append((time.monotonic(), held(polls)))
        return counts[-1][1] <= count

    await until(have_ended)
    return counts


async def wait_until_reported(management: httpx.Client, **polls: int) -> None:
    """Wait until the nodes have reported that they hold this many polls."""
    await asyncio.to_thread(wait_until, lambda: polls_held(management) == polls)


def redirected_at_most(seconds: float) -> float:
    """Return how many polls a node may end within some seconds."""
    return REDIRECTED_PER_HEARTBEAT * (2 + seconds // HEARTBEAT_SECONDS)


@pytest.mark.anyio
async def test_a_crowded_node_redirects_a_few_agents_at_a_time_down_to_the_mean(
    nodes: tuple[Server, Server],
) -> None:
    crowded, idle = nodes
    management = idle.management()
    ids = [idle.enroll(management, f"agent{number}") for number in range(CROWD + FEW)]
    tokens = [idle.token(agent_id) for agent_id in ids]
    async with (
        held_polls(crowded.tls, crowded.agent_port, tokens[:CROWD]) as polls,
        held_polls(idle.tls, idle.agent_port, tokens[CROWD:]) as few,
    ):
        await wait_until_reported(management, crowded=CROWD, idle=FEW)
        answer = await asyncio.to_thread(management.post, "/nodes/rebalance")
        assert answer.json() == [{"name": "crowded", "worker": 0, "polls": CROWD, "wanted_polls": EVEN}]
        repeated = await asyncio.to_thread(management.post, "/nodes/rebalance")
        assert repeated.status_code == 200
        counts = await wait_until_held(polls, EVEN)
        assert counts[-1][1] == EVEN
        for (since, before), (now, after) in pairwise(counts):
            assert before - after <= redirected_at_most(now - since)
        redirected = [index for index, poll in enumerate(polls) if not poll.is_held]
        assert all(b"connection: close" in polls[index].head.lower() for index in redirected)
        assert redirected == list(range(CROWD - EVEN))  # the polls that have waited longest
        async with held_polls(idle.tls, idle.agent_port, [tokens[index] for index in redirected]) as moved:
            await wait_until_reported(management, crowded=EVEN, idle=EVEN)
            await asyncio.to_thread(wait_for_heartbeats, management, "crowded", 2)  # no more are redirected
            assert (held(polls), held(few), held(moved)) == (EVEN, FEW, CROWD - EVEN)
            assert (await asyncio.to_thread(management.post, "/nodes/rebalance")).json() == []
            await asyncio.to_thread(management.post, "/commands", json=command(ids[redirected[0]]))
            assert len((await asyncio.wait_for(moved[0].answer, PATIENCE)).commands) == 1


@pytest.mark.anyio
async def test_nodes_with_few_polls_or_even_loads_are_not_rebalanced(nodes: tuple[Server, Server]) -> None:
    crowded, idle = nodes
    management = idle.management()
    await wait_until_reported(management, crowded=0, idle=0)
    assert (await asyncio.to_thread(management.post, "/nodes/rebalance")).json() == []
    token = idle.token(idle.enroll(management, "lonely"))
    async with held_polls(crowded.tls, crowded.agent_port, [token]) as [poll]:
        await wait_until_reported(management, crowded=1, idle=0)
        assert (await asyncio.to_thread(management.post, "/nodes/rebalance")).json() == []
        assert poll.is_held


@pytest.mark.anyio
async def test_repeated_requests_to_rebalance_redirect_agents_no_faster(
    nodes: tuple[Server, Server],
) -> None:
    crowded, idle = nodes
    management = idle.management()
    tokens = [idle.token(idle.enroll(management, f"asked{number}")) for number in range(CROWD)]
    async with held_polls(crowded.tls, crowded.agent_port, tokens) as polls:
        await wait_until_reported(management, crowded=CROWD, idle=0)
        started = time.monotonic()
        for _ in range(10):
            assert (await asyncio.to_thread(management.post, "/nodes/rebalance")).status_code == 200
            await asyncio.sleep(0.1)
        assert CROWD - held(polls) <= redirected_at_most(time.monotonic() - started)
        assert held(polls) < CROWD
