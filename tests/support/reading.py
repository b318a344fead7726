"""Read stored events over the management API, as operators and followers do."""

import json
from collections.abc import Iterator
from typing import Any

import httpx


def pages(management: httpx.Client, **query: Any) -> Iterator[list[dict[str, Any]]]:
    """Yield the items of all pages."""
    after: dict[str, str] = {}
    while True:
        answer = management.get("/events", params=query | after)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        yield page["items"]
        if page["next"] is None:
            return
        after = {"after": page["next"]}


def read(management: httpx.Client, **query: Any) -> list[dict[str, Any]]:
    """Return the items of all pages."""
    return [item for page in pages(management, **query) for item in page]


def export(management: httpx.Client, **query: Any) -> list[dict[str, Any]]:
    """Return the events that an export has."""
    answer = management.get("/events", params=query, headers={"Accept": "application/x-ndjson"})
    assert answer.headers["Content-Type"].startswith("application/x-ndjson")
    return [json.loads(line) for line in answer.text.splitlines()]


def follow(management: httpx.Client, count: int, **query: Any) -> list[dict[str, Any]]:
    """Return the events that a follower gets from the beginning: it stops at the end, or after more than `count`."""
    position, followed = {"since": "2020-01-01T00:00:00Z"}, list[dict[str, Any]]()
    while len(followed) <= count:
        answer = management.get("/events/tail", params=query | position).json()
        if not answer["items"]:
            break
        followed += answer["items"]
        position = {"after": answer["next"]}
    return followed


def numbers(items: list[dict[str, Any]]) -> list[int]:
    return [item["event"]["number"] for item in items]
