"""Lists of commands, orders, audit entries and quarantined lines: both orders, periods, and pages without gaps."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import httpx
import pytest
from support.batches import command, stateless
from support.server import Server

PATHS = ["/commands", "/orders", "/audit", "/events/quarantine"]
MADE = 5


@pytest.fixture(scope="module", autouse=True)
def _items(server: Server, management: httpx.Client) -> None:
    agent_id = server.enroll(management, "listed")
    agent = server.log_in(agent_id)
    for _ in range(MADE):
        management.post("/commands", json=command(agent_id)).raise_for_status()
        agent.post("/events/stateless", content=stateless(agent_id, b"no json")).raise_for_status()


def read(management: httpx.Client, path: str, **query: Any) -> Iterator[dict[str, Any]]:
    """Yield the items of all pages."""
    after: dict[str, str] = {}
    while True:
        answer = management.get(path, params=query | after)
        assert answer.status_code == 200, answer.text
        yield from answer.json()["items"]
        if answer.json()["next"] is None:
            return
        after = {"after": answer.json()["next"]}


def id_of(item: dict[str, Any]) -> UUID:
    """Return the id that a list is ordered by."""
    return UUID(item.get("order_id") or item.get("request_id") or item["id"])


@pytest.mark.parametrize("path", PATHS)
def test_the_newest_items_come_first_when_requested(management: httpx.Client, path: str) -> None:
    oldest = [id_of(item) for item in read(management, path, limit=2)]
    assert len(oldest) >= MADE
    assert oldest == sorted(oldest)
    newest = [id_of(item) for item in read(management, path, limit=2, order="newest")]
    assert newest == oldest[::-1]


@pytest.mark.parametrize("path", PATHS)
def test_a_period_includes_its_beginning_and_excludes_its_end(management: httpx.Client, path: str) -> None:
    everything = list(read(management, path))
    at = next(item.get("created_at") or item.get("received_at") or item["at"] for item in everything[-2:])
    before = [id_of(item) for item in read(management, path, until=at)]
    since = [id_of(item) for item in read(management, path, since=at, order="newest")]
    assert before + since[::-1] == [id_of(item) for item in everything]
    assert before
    assert since


@pytest.mark.parametrize("path", PATHS)
def test_an_unknown_order_is_refused(management: httpx.Client, path: str) -> None:
    answer = management.get(path, params={"order": "random"})
    assert answer.status_code == 400
    assert "order" in answer.json()["detail"]


def test_the_audit_trail_is_exported_in_both_orders(management: httpx.Client) -> None:
    oldest = management.get("/audit/export").text.splitlines()
    newest = management.get("/audit/export?order=newest").text.splitlines()
    assert newest == oldest[::-1]
    assert len(oldest) >= MADE
