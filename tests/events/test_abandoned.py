"""A request that its client has given up must not undo what another request has done since."""

import os
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import httpx
import pytest
from support.batches import state, stateful, stateless
from support.raw import connect, request
from support.server import Server, running_server
from support.waiting import pause

Query = Callable[..., list[Any]]


@pytest.fixture(scope="module")
def other(server: Server, database_url: str) -> Iterator[Server]:
    """A second node, which is never frozen."""
    with running_server(server.folder, database_url) as node:
        yield node


@contextmanager
def frozen(server: Server) -> Iterator[None]:
    """Freeze a node for the block."""
    pause(server.process.pid)
    try:
        yield
    finally:
        os.kill(server.process.pid, signal.SIGCONT)


def leave(connection: ssl.SSLSocket) -> None:
    """Send what a client sends last when it closes; closing would reset the connection and take the request back."""
    connection.shutdown(socket.SHUT_WR)


def states_of(query: Query, agent_id: UUID) -> dict[str, str]:
    rows = query("SELECT id, data::text FROM states WHERE agent_id = $1", agent_id)
    return {row[0]: row[1] for row in rows}


def test_a_state_of_a_client_that_has_left_is_not_applied(
    server: Server, other: Server, management: httpx.Client, query: Query
) -> None:
    agent_id = server.enroll(management, "impatient")
    token = server.token(agent_id)

    def change(version: int) -> bytes:
        return stateful(agent_id, state("1", "update", {"v": version}))

    with connect(server.tls, server.agent_port) as connection:
        with frozen(server):
            connection.sendall(request("POST", "/events/stateful", token, change(1)))
            leave(connection)
            for version in (1, 2):
                assert other.client(other.agent_url, token).post("/events/stateful", content=change(version)).is_success
        # A batch of the same agent waits for the ones before it.
        body = stateful(agent_id, state("later"))
        assert server.client(server.agent_url, token).post("/events/stateful", content=body).is_success
    assert states_of(query, agent_id) == {"1": '{"v": 2}', "later": "{}"}


def test_events_of_a_client_that_has_left_are_not_stored(
    server: Server, management: httpx.Client, query: Query
) -> None:
    agent_id = server.enroll(management, "impatient too")
    token = server.token(agent_id)
    with connect(server.tls, server.agent_port) as connection:
        with frozen(server):
            connection.sendall(request("POST", "/events/stateless", token, stateless(agent_id, {"n": 1})))
            leave(connection)
        body = stateless(agent_id, {"n": 2})
        assert server.client(server.agent_url, token).post("/events/stateless", content=body).is_success
    rows = query("SELECT event::text FROM events WHERE agent_id = $1", agent_id)
    assert [row[0] for row in rows] == ['{"n": 2}']
