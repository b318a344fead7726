"""The histogram of events counts the batches that match, and examines a bounded number of them."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import httpx
import pytest
from support.batches import stateless
from support.server import Server

from comms_api.database.connection import Engine
from comms_api.database.uuid7 import DatabaseClock
from comms_api.events.reading import service
from comms_api.events.reading.model import EventFilter
from comms_api.events.reading.service import EventReader

INTERVALS = 4


@pytest.fixture(scope="module")
def agents(server: Server, management: httpx.Client) -> list[UUID]:
    """Two agents, the second of which is in a group; each has sent two batches of three events."""
    management.post("/groups", json={"name": "counted"}).raise_for_status()
    ids = [server.enroll(management, "first"), server.enroll(management, "second", ("counted",))]
    for agent_id in ids * 2:
        content = stateless(agent_id, *({"n": number} for number in range(3)))
        server.log_in(agent_id).post("/events/stateless", content=content).raise_for_status()
    return ids


@pytest.fixture
async def reader(engine: Engine) -> EventReader:
    return EventReader(engine, DatabaseClock(), 1.0)


async def total(reader: EventReader, event_filter: EventFilter) -> int:
    now = datetime.now(UTC)
    counts = await reader.count(now - timedelta(minutes=30), now + timedelta(minutes=1), INTERVALS, event_filter)
    assert (len(counts.counts), counts.is_cut) == (INTERVALS, False)
    return counts.total


@pytest.mark.anyio
async def test_the_counts_follow_the_filter(reader: EventReader, agents: list[UUID]) -> None:
    for event_filter, events in (
        (EventFilter(), 12),
        (EventFilter(agents[0]), 6),
        (EventFilter(group="counted"), 6),
        (EventFilter(agents[0], group="counted"), 0),
        (EventFilter(module="logcollector"), 12),
        (EventFilter(module="logcollector", collector="file"), 12),
        (EventFilter(module="absent"), 0),
        (EventFilter(collector="absent"), 0),
        (EventFilter(contains=b"absent"), 12),
    ):
        assert await total(reader, event_filter) == events, event_filter


@pytest.mark.anyio
async def test_a_count_that_examines_too_many_batches_is_cut(
    reader: EventReader, agents: list[UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert agents
    monkeypatch.setattr(service, "COUNTED_MAXIMUM", 3)
    now = datetime.now(UTC)
    counts = await reader.count(now - timedelta(minutes=30), now + timedelta(minutes=1), INTERVALS)
    assert (counts.total, counts.is_cut) == (9, True)
