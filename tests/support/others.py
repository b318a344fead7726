"""Check that an attack does not affect other clients."""

from uuid import UUID

import httpx

from support.batches import command, stateless
from support.server import Server


def assert_others_are_served(server: Server, management: httpx.Client, quiet: UUID) -> None:
    """Log in, send a batch, submit a command and receive it."""
    with server.log_in(quiet) as agent:
        assert agent.post("/events/stateless", content=stateless(quiet, {"n": 1})).status_code == 204
        assert management.post("/commands", json=command(quiet)).status_code == 201
        assert agent.get("/commands").json()["commands"]  # includes orders of earlier calls whose leases have expired
    assert server.management().get("/agents", params={"limit": 1}).status_code == 200
