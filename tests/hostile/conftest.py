"""Fixtures for the tests of hostile clients."""

from uuid import UUID

import httpx
import pytest
from support.server import Server


@pytest.fixture(scope="module")
def quiet(server: Server, management: httpx.Client) -> UUID:
    """An agent that must not notice the hostile clients."""
    return server.enroll(management, "quiet")
