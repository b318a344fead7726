"""An event of the maximum size is stored and read like any other, and a larger one fails alone, with both sinks."""

import base64
import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from support.batches import stateless
from support.nats import nats_servers, stream_settings
from support.reading import export, follow, numbers, pages
from support.relays import relay
from support.server import environment, running_server

from comms_api.events.model import EVENT_BYTES_MAXIMUM, QUARANTINED_LINE_BYTES_MAXIMUM


def event_of(number: int, size: int) -> bytes:
    """Return an event of exactly this size, which can hardly be compressed."""
    begin = b'{"number":%d,"text":"' % number
    text = base64.b64encode(os.urandom(size))
    return begin + text[: size - len(begin) - 2] + b'"}'


EVENTS = [event_of(number, EVENT_BYTES_MAXIMUM if number in {1, 2} else 100) for number in range(4)]
TOO_LARGE = event_of(4, EVENT_BYTES_MAXIMUM + 1)


@dataclass
class Stored:
    """A node that has stored a batch of `EVENTS`, with `TOO_LARGE` among them."""

    management: httpx.Client
    agent_id: UUID


@pytest.fixture(scope="module", params=["postgresql", "jetstream"])
def stored(
    request: pytest.FixtureRequest, folder: Path, scratch: Path, new_database: Callable[[], str]
) -> Iterator[Stored]:
    url, is_stream = new_database(), request.param == "jetstream"
    nats = nats_servers(scratch / "large events", 1, "max_payload: 8388608")
    with nats if is_stream else nullcontext([]) as servers:
        settings: dict[str, Any] = stream_settings(servers) if is_stream else {}
        with running_server(folder / request.param, url, **settings) as server:
            management = server.management()
            agent_id = server.enroll(management, "verbose")
            body = stateless(agent_id, *EVENTS[:2], TOO_LARGE, *EVENTS[2:])
            assert server.log_in(agent_id).post("/events/stateless", content=body).status_code == 204
            if is_stream:
                relay(environment(folder / "relay", url, **settings), "postgresql")
            yield Stored(management, agent_id)


def test_an_event_that_is_too_large_is_quarantined_alone(stored: Stored) -> None:
    [hidden] = stored.management.get("/events/quarantine").json()["items"]
    assert hidden["reason"] == f"larger than {EVENT_BYTES_MAXIMUM} bytes"
    assert hidden["line_bytes"] == EVENT_BYTES_MAXIMUM + 1
    assert hidden["line"].encode() == TOO_LARGE[:QUARANTINED_LINE_BYTES_MAXIMUM]
    assert sum(map(len, pages(stored.management))) == len(EVENTS)


@pytest.mark.parametrize("order", ["oldest", "newest"])
def test_each_page_has_an_event_however_large(stored: Stored, order: str) -> None:
    found = list(pages(stored.management, order=order))
    assert all(found)
    assert all(sum(item["event"]["number"] in {1, 2} for item in page) <= 1 for page in found)
    items = sorted((item for page in found for item in page), key=lambda item: str(item["id"]))
    assert [item["event"] for page in found for item in page] == [
        item["event"] for item in (items if order == "oldest" else items[::-1])
    ]
    assert numbers(items) == list(range(len(EVENTS)))


def test_a_large_event_is_shown_by_its_id_and_byte_for_byte(stored: Stored) -> None:
    for item in export(stored.management):
        answer = stored.management.get(f"/events/{item['id']}")
        assert answer.json() == item
        assert EVENTS[item["event"]["number"]] in answer.content


def test_exports_and_followers_get_large_events(stored: Stored) -> None:
    assert numbers(export(stored.management)) == list(range(len(EVENTS)))
    assert numbers(export(stored.management, order="newest")) == list(range(len(EVENTS)))[::-1]
    # A follower has the order of the commits, and the parts of a batch commit in any order.
    assert sorted(numbers(follow(stored.management, len(EVENTS)))) == list(range(len(EVENTS)))
