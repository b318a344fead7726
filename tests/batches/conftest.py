"""Fixtures for the tests of batches."""

from collections.abc import Iterator

import pytest
from support.server import Server, running_server


@pytest.fixture(scope="module")
def other(server: Server, database_url: str) -> Iterator[Server]:
    """A second node."""
    with running_server(server.folder, database_url) as node:
        yield node
