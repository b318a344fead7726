"""A search does a bounded amount of work for each page; a page may be empty although more follow."""

import time
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from support.events import batch_of, store_batch

from comms_api.database.uuid7 import uuid7_at
from comms_api.events.model import EventBatch
from comms_api.events.reading.search import DECODED_BYTES_AT_ONCE
from comms_api.events.reading.service import DECODED_BYTES_MAXIMUM, EXAMINED_AT_ONCE, EXAMINED_MAXIMUM

Query = Callable[..., list[Any]]

COPIES = """
    INSERT INTO event_batches (id, agent_id, events, streams, content)
    SELECT id, $2, $3, $4, $5 FROM unnest(CAST($1 AS uuid[])) AS id"""
LARGE_BYTES = 2**23
APART = 2**32
"""The distance of the ids; readers look for an event in all batches whose ids are a little lower."""


def store_copies(query: Query, batch: EventBatch, count: int, apart: int = APART) -> list[UUID]:
    """Store copies of a batch under ascending ids, and return these."""
    ids = [UUID(int=batch.id.int + number * apart) for number in range(count)]
    query(COPIES, ids, batch.agent_id, batch.events, batch.streams, batch.content)
    return ids


def find_last(management: httpx.Client, first_answer: dict[str, Any], **filters: str) -> list[dict[str, Any]]:
    """Return the items of the first of the next pages that has some."""
    answer = first_answer
    while not answer["items"] and answer["next"]:
        answer = management.get("/events", params={**filters, "after": answer["next"]}).json()
    return list(answer["items"])


@pytest.fixture
def agent_id() -> UUID:
    return uuid4()


def test_a_page_ends_after_many_batches_without_a_match(management: httpx.Client, query: Query, agent_id: UUID) -> None:
    begin, filters = time.time(), {"agent_id": str(agent_id), "module": "rare"}
    ids = store_copies(query, batch_of(uuid7_at(begin), agent_id, [b"{}"]), EXAMINED_MAXIMUM + 2 * EXAMINED_AT_ONCE)
    rare = batch_of(uuid7_at(begin + 1), agent_id, [b'{"rare":1}'], module="rare")
    store_batch(query, rare)
    answer = management.get("/events", params=filters).json()
    assert answer["items"] == []
    assert UUID(answer["next"]) <= ids[EXAMINED_MAXIMUM + EXAMINED_AT_ONCE]
    assert [item["event"] for item in find_last(management, answer, **filters)] == [{"rare": 1}]


def test_a_page_ends_after_many_decompressed_bytes_without_a_match(
    management: httpx.Client, query: Query, agent_id: UUID
) -> None:
    begin, filters = time.time(), {"agent_id": str(agent_id), "contains": "needle"}
    large = batch_of(uuid7_at(begin), agent_id, [b'{"text":"%s"}' % (b"x" * 2**20)] * (LARGE_BYTES // 2**20))
    most = (DECODED_BYTES_MAXIMUM + DECODED_BYTES_AT_ONCE) // LARGE_BYTES
    ids = store_copies(query, large, most + 2)
    needle = batch_of(uuid7_at(begin + 1), agent_id, [b'{"needle":1}'])
    store_batch(query, needle)
    answer = management.get("/events", params=filters).json()
    assert answer["items"] == []
    assert UUID(answer["next"]) < ids[most + 1]
    assert [item["event"] for item in find_last(management, answer, **filters)] == [{"needle": 1}]


def test_an_event_is_found_without_reading_the_other_parts_of_its_batch(
    management: httpx.Client, query: Query, agent_id: UUID
) -> None:
    large = batch_of(uuid7_at(time.time()), agent_id, [b'{"text":"%s"}' % (b"x" * 2**20)] * (LARGE_BYTES // 2**20))
    parts = store_copies(query, large, DECODED_BYTES_MAXIMUM // LARGE_BYTES + 2, apart=large.events)
    last = UUID(int=parts[-1].int + large.events - 1)
    assert management.get(f"/events/{last}").json()["id"] == str(last)
    assert management.get(f"/events/{UUID(int=last.int + 1)}").status_code == 404
    assert management.get(f"/events/{UUID(int=2**128 - 1)}").status_code == 404
