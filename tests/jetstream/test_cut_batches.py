"""Each event of a batch that is cut into several messages is stored and read exactly once."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.batches import stateless
from support.keyed import post_keyed
from support.nats import nats_servers, stream_settings
from support.reading import export, follow, numbers, read
from support.relays import relay
from support.server import Server, environment, running_server

EVENTS = 60
MAX_PAYLOAD = 8192


@pytest.fixture(scope="module")
def settings(scratch: Path) -> Iterator[dict[str, Any]]:
    with nats_servers(scratch / "nats cut", 1, f"max_payload: {MAX_PAYLOAD}") as servers:
        yield stream_settings(servers)


@pytest.fixture(scope="module")
def server(folder: Path, database_url: str, settings: dict[str, Any]) -> Iterator[Server]:
    with running_server(folder, database_url, **settings) as running:
        yield running


@pytest.fixture(scope="module")
def relay_all(folder: Path, database_url: str, settings: dict[str, Any]) -> Callable[[], object]:
    """Stores all events of the stream."""
    return lambda: relay(environment(folder / "relay", database_url, **settings), "postgresql")


def assert_each_is_read_once(management: httpx.Client, agent_id: str) -> None:
    expected = list(range(EVENTS))
    for limit in (1, 7, 1_000):
        filters = {"agent_id": agent_id, "limit": limit}
        assert numbers(read(management, **filters)) == expected
        assert numbers(read(management, **filters, order="newest")) == expected[::-1]
        # Followers get parts in the order of their commits.
        assert sorted(numbers(follow(management, EVENTS, **filters))) == expected
    exported = export(management, agent_id=agent_id)
    assert numbers(exported) == expected
    for item in exported[:: EVENTS - 1]:
        assert management.get(f"/events/{item['id']}").json() == item


@pytest.mark.parametrize("key", [None, "large"])
def test_each_event_of_a_batch_that_was_cut_is_read_once(
    server: Server,
    management: httpx.Client,
    query: Callable[..., list[Any]],
    relay_all: Callable[[], object],
    key: str | None,
) -> None:
    agent_id = server.enroll(management, f"cut-{key}")
    body = stateless(agent_id, *({"number": number, "text": os.urandom(500).hex()} for number in range(EVENTS)))
    if key is None:
        assert server.log_in(agent_id).post("/events/stateless", content=body).status_code == 204
        relay_all()
    else:
        token = server.token(agent_id)
        for again in (False, True, True):  # before the relay has stored the first one, and after
            assert post_keyed(server, token, "/events/stateless", key, body).status_code == 204
            if again:
                relay_all()
    [[parts]] = query("SELECT count(*) FROM event_batches WHERE agent_id = $1", agent_id)
    assert parts > 2
    assert_each_is_read_once(management, str(agent_id))
