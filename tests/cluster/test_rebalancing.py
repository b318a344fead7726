"""Rebalancing: crowded nodes send some of their agents away, gently, and no more of them than they must."""

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
    """Wait until this many polls are held; return how many were at which time."""
    seen = [(time.monotonic(), held(polls))]

    def look() -> bool:
        seen.append((time.monotonic(), held(polls)))
        return seen[-1][1] <= count

    await until(look)
    return seen


async def wait_until_told(management: httpx.Client, **polls: int) -> None:
    """Wait until the heartbeats have told how many polls each node holds."""
    await asyncio.to_thread(wait_until, lambda: polls_held(management) == polls)


def most_sent_away(seconds: float) -> float:
    """Return how many polls a node may send away within some seconds."""
    return REDIRECTED_PER_HEARTBEAT * (2 + seconds // HEARTBEAT_SECONDS)


@pytest.mark.anyio
async def test_a_crowded_node_comes_down_to_the_mean_a_few_polls_at_a_time_and_no_further(
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
        await wait_until_told(management, crowded=CROWD, idle=FEW)
        told = await asyncio.to_thread(management.post, "/nodes/rebalance")
        wanted = [{"name": "crowded", "worker": 0, "polls": CROWD, "wanted_polls": EVEN}]
        assert told.json() == wanted
        again = await asyncio.to_thread(management.post, "/nodes/rebalance")
        assert again.status_code == 200
        seen = await wait_until_held(polls, EVEN)
        assert seen[-1][1] == EVEN
        for (since, before), (now, after) in pairwise(seen):
            assert before - after <= most_sent_away(now - since)
        sent_away = [index for index, poll in enumerate(polls) if not poll.is_held]
        assert all(b"connection: close" in polls[index].head.lower() for index in sent_away)
        assert sent_away == list(range(CROWD - EVEN))  # those that have waited longest
        async with held_polls(idle.tls, idle.agent_port, [tokens[index] for index in sent_away]) as moved:
            await wait_until_told(management, crowded=EVEN, idle=EVEN)
            await asyncio.to_thread(wait_for_heartbeats, management, "crowded", 2)  # no more are sent away
            assert (held(polls), held(few), held(moved)) == (EVEN, FEW, CROWD - EVEN)
            assert (await asyncio.to_thread(management.post, "/nodes/rebalance")).json() == []
            await asyncio.to_thread(management.post, "/commands", json=command(ids[sent_away[0]]))
            assert len((await asyncio.wait_for(moved[0].answer, PATIENCE)).commands) == 1


@pytest.mark.anyio
async def test_nodes_that_hold_few_polls_or_nearly_the_same_are_left_alone(nodes: tuple[Server, Server]) -> None:
    crowded, idle = nodes
    management = idle.management()
    assert (await asyncio.to_thread(management.post, "/nodes/rebalance")).json() == []
    token = idle.token(idle.enroll(management, "lonely"))
    async with held_polls(crowded.tls, crowded.agent_port, [token]) as [poll]:
        await wait_until_told(management, crowded=1, idle=0)
        assert (await asyncio.to_thread(management.post, "/nodes/rebalance")).json() == []
        assert poll.is_held


@pytest.mark.anyio
async def test_agents_are_sent_away_no_faster_when_that_is_asked_for_again_and_again(
    nodes: tuple[Server, Server],
) -> None:
    crowded, idle = nodes
    management = idle.management()
    tokens = [idle.token(idle.enroll(management, f"asked{number}")) for number in range(CROWD)]
    async with held_polls(crowded.tls, crowded.agent_port, tokens) as polls:
        await wait_until_told(management, crowded=CROWD, idle=0)
        started = time.monotonic()
        for _ in range(10):
            assert (await asyncio.to_thread(management.post, "/nodes/rebalance")).status_code == 200
            await asyncio.sleep(0.1)
        assert CROWD - held(polls) <= most_sent_away(time.monotonic() - started)
        assert held(polls) < CROWD
