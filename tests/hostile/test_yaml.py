"""YAML that is nested very deep is refused while it is parsed."""

from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import httpx
import pytest
from support.others import assert_others_are_served
from support.server import Server, running_server
from support.speed import slowness


@pytest.fixture(scope="module")
def server(folder: Path, database_url: str) -> Iterator[Server]:
    with running_server(folder, database_url) as running:
        yield running


@pytest.mark.parametrize(
    "content",
    [b"? " * 25_000, b"- " * 30_000, b"[" * 40_000, b"{a: " * 10_000],
    ids=["keys", "lists", "flow lists", "flow maps"],
)
def test_a_file_that_is_nested_very_deep_is_refused_at_little_cost(
    server: Server, management: httpx.Client, quiet: UUID, content: bytes
) -> None:
    management.post("/groups", json={"name": "nested"})
    before = server.cpu_seconds()
    answer = management.put("/groups/nested/files/a.yml", content=content)
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("a.yml: line 1: ")
    assert server.cpu_seconds() - before < 0.5 * slowness()
    assert_others_are_served(server, management, quiet)
