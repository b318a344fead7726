"""Operators search events by agent, group, stream, time and text, in both orders, and export them."""

import json
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from support.batches import metadata
from support.events import batch_of, store_batch
from support.reading import export, follow, numbers, read
from support.server import Server

from comms_api.database.uuid7 import uuid7_at

EVENTS = 60
STREAMS = [("logcollector", "file"), ("logcollector", "journald"), ("fim", "file")]


def event(number: int) -> bytes:
    """Return an event; every seventh one contains another word."""
    word = "needle" if number % 7 == 0 else "hay"
    return json.dumps({"number": number, "text": f"{word} {number}"}).encode()


@pytest.fixture(scope="module")
def agents(server: Server, management: httpx.Client) -> list[UUID]:
    """Two agents; the second one is in the group `searched`. Each has sent batches of different sizes and streams."""
    management.post("/groups", json={"name": "searched"}).raise_for_status()
    ids = [server.enroll(management, "first"), server.enroll(management, "second", ("searched",))]
    clients = [server.log_in(agent_id) for agent_id in ids]
    for start in range(0, EVENTS, 6):
        for agent_id, client in zip(ids, clients, strict=True):
            lines = [metadata(agent_id)]
            for number in range(start, start + 6):
                module, collector = STREAMS[number % 3]
                lines += [json.dumps({"module": module, "collector": collector}).encode(), event(number)]
            client.post("/events/stateless", content=b"\n".join(lines)).raise_for_status()
    return ids


@pytest.mark.parametrize("limit", [1, 4, 7, 1000])
@pytest.mark.parametrize("order", ["oldest", "newest"])
def test_pages_are_complete_in_both_orders(
    management: httpx.Client, agents: list[UUID], limit: int, order: str
) -> None:
    items = read(management, agent_id=str(agents[0]), limit=limit, order=order)
    expected = list(range(EVENTS))
    assert numbers(items) == (expected if order == "oldest" else expected[::-1])
    ids = [UUID(item["id"]) for item in items]
    assert ids == sorted(ids, reverse=order == "newest")


@pytest.mark.parametrize("order", ["oldest", "newest"])
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"contains": "needle"}, range(0, EVENTS, 7)),
        ({"contains": "needle 49"}, [49]),
        ({"contains": "NEEDLE"}, []),
        ({"module": "fim"}, range(2, EVENTS, 3)),
        ({"collector": "file", "module": "logcollector"}, range(0, EVENTS, 3)),
        ({"collector": "file"}, [number for number in range(EVENTS) if number % 3 != 1]),
        ({"module": "logcollector", "collector": "journald", "contains": "needle"}, range(7, EVENTS, 21)),
        ({"module": "elsewhere"}, []),
        ({"collector": "elsewhere"}, []),
    ],
)
def test_filters_combine(
    management: httpx.Client, agents: list[UUID], query: dict[str, str], expected: Any, order: str
) -> None:
    found = numbers(read(management, agent_id="first", limit=3, order=order, **query))
    assert found == (list(expected) if order == "oldest" else list(expected)[::-1])
    of_group = read(management, group="searched", order=order, **query)
    assert numbers(of_group) == found
    assert {item["agent_id"] for item in of_group} <= {str(agents[1])}


def test_a_period_is_half_open(management: httpx.Client, agents: list[UUID]) -> None:
    items = read(management, agent_id=str(agents[0]))
    at = items[EVENTS // 2]["received_at"]
    before, since = (read(management, agent_id="first", **{name: at}) for name in ("until", "since"))
    assert before + since == items
    assert before
    assert since[0]["received_at"] == at


def test_an_event_is_found_by_its_id(management: httpx.Client, agents: list[UUID]) -> None:
    for item in read(management, agent_id=str(agents[0]))[:8]:
        assert management.get(f"/events/{item['id']}").json() == item
    missing = management.get(f"/events/{uuid4()}")
    assert missing.status_code == 404
    assert "no event" in missing.json()["detail"]
    beyond = UUID(int=UUID(item["id"]).int + 2**40)
    assert management.get(f"/events/{beyond}").status_code == 404


def test_an_export_has_the_same_events_as_the_list(management: httpx.Client, agents: list[UUID]) -> None:
    for query in ({}, {"order": "newest"}, {"contains": "needle"}, {"agent_id": str(agents[1]), "module": "fim"}):
        assert export(management, **query) == read(management, **query)
    assert len(export(management, limit=5)) == 5


def test_only_readers_may_search(server: Server, management: httpx.Client, agents: list[UUID]) -> None:
    for role, status in (("reader", 200), ("service", 403)):
        user = server.user(management, f"searching-{role}", role)
        event_id = read(management, limit=1, agent_id=str(agents[0]))[0]["id"]
        for path in ("/events", f"/events/{event_id}", "/events/tail"):
            assert user.get(path).status_code == status


@pytest.mark.parametrize("limit", [1, 2, 4])
def test_each_event_of_a_batch_that_was_cut_is_read_once(
    management: httpx.Client, query: Callable[..., list[Any]], limit: int
) -> None:
    agent_id, first_id = uuid4(), uuid7_at(time.time())
    for start in range(0, 9, 3):  # JetStream cuts large batches into parts with consecutive ids
        lines = [b'{"number":%d}' % number for number in range(start, start + 3)]
        part = batch_of(UUID(int=first_id.int + start), agent_id, lines)
        store_batch(query, part)
    query("UPDATE event_batches SET xact = (SELECT max(xact) FROM event_batches) WHERE agent_id = $1", agent_id)
    assert numbers(read(management, agent_id=str(agent_id), limit=limit)) == list(range(9))
    assert numbers(read(management, agent_id=str(agent_id), limit=limit, order="newest")) == list(range(9))[::-1]
    assert numbers(follow(management, 9, agent_id=str(agent_id), limit=limit)) == list(range(9))
