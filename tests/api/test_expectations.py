"""A client that expects 100 Continue (RFC 9110, 10.1.1) gets it if the server reads the body."""

from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import httpx
import pytest
from support.batches import stateless
from support.raw import connect, read_answer, request
from support.server import Server, running_server


@pytest.fixture(scope="module")
def server(folder: Path, database_url: str) -> Iterator[Server]:
    """A node that waits for a body for longer than any test."""
    with running_server(folder, database_url, body_timeout_seconds=3600) as running:
        yield running


@pytest.fixture(scope="module")
def agent_id(server: Server, management: httpx.Client) -> UUID:
    return server.enroll(management, "expectations")


def expecting(path: str, token: str, size: int) -> bytes:
    """Return the head of a request that keeps its connection."""
    head = request("POST", path, token, b"", "Expect: 100-continue", f"Content-Length: {size}")
    return head.replace(b"Connection: close\r\n", b"")


@pytest.mark.parametrize("size", [1000, 100_000])
def test_a_bad_token_is_a_401_at_once_and_the_body_is_not_asked_for(server: Server, size: int) -> None:
    with connect(server.tls, server.agent_port) as connection:
        connection.sendall(expecting("/events/stateless", "bad", size))
        answer = read_answer(connection)
        assert (answer.status, answer.headers["connection"]) == (401, "close")
        connection.sendall(b"x" * size)
        assert connection.recv(65536) == b""  # nothing follows the answer


def test_a_body_with_a_good_token_is_asked_for_each_time(server: Server, agent_id: UUID) -> None:
    token, body = server.token(agent_id), stateless(agent_id, {"n": 1})
    with connect(server.tls, server.agent_port) as connection:
        for _ in range(2):
            connection.sendall(expecting("/events/stateless", token, len(body)))
            assert read_answer(connection).status == 100
            connection.sendall(body)
            assert read_answer(connection).status == 204
        connection.sendall(expecting("/nowhere", token, len(body)))
        assert read_answer(connection).status == 404


def test_a_body_that_is_too_large_is_not_asked_for(server: Server, agent_id: UUID) -> None:
    with connect(server.tls, server.agent_port) as connection:
        connection.sendall(expecting("/events/stateless", server.token(agent_id), 100 * 2**20))
        assert read_answer(connection).status == 413


@pytest.mark.parametrize(("is_good", "statuses"), [(True, [100, 204]), (False, [401])])
def test_a_client_that_sends_its_body_without_waiting_gets_its_answer(
    server: Server, agent_id: UUID, *, is_good: bool, statuses: list[int]
) -> None:
    body = stateless(agent_id, {"pad": "x" * 1_000_000})
    token = server.token(agent_id) if is_good else "bad"
    with connect(server.tls, server.agent_port) as connection:
        connection.sendall(expecting("/events/stateless", token, len(body)) + body)
        assert [read_answer(connection).status for _ in statuses] == statuses
