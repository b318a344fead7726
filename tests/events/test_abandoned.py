"""A request that its client has abandoned must not undo the effect of a later request."""

import asyncio
import os
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest
from sqlalchemy import make_url
from support.batches import state, stateful, stateless
from support.databases import plain_url
from support.events import stored_lines
from support.raw import connect, read_answer, request
from support.server import Server, running_server
from support.waiting import pause, wait_until

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
    """End the stream, as closing does; closing the socket would reset the connection and lose the request."""
    connection.shutdown(socket.SHUT_WR)


WAITING = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%pg_advisory_xact%'"""


def states_of(query: Query, agent_id: UUID) -> dict[str, str]:
    rows = query("SELECT id, data::text FROM states WHERE agent_id = $1", agent_id)
    return {row[0]: row[1] for row in rows}


def test_a_state_of_a_client_that_has_disconnected_is_not_applied(
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
        # A batch waits for the earlier batches of its agent.
        body = stateful(agent_id, state("later"))
        assert server.client(server.agent_url, token).post("/events/stateful", content=body).is_success
    assert states_of(query, agent_id) == {"1": '{"v": 2}', "later": "{}"}


def test_an_older_batch_is_refused_although_its_client_still_seems_connected(
    server: Server, other: Server, management: httpx.Client, query: Query
) -> None:
    agent_id = server.enroll(management, "behind a proxy")
    token = server.token(agent_id)

    def change(version: int) -> bytes:
        return stateful(agent_id, state("1", "update", {"v": version}))

    with connect(server.tls, server.agent_port) as connection:
        with frozen(server):
            connection.sendall(request("POST", "/events/stateful", token, change(1), "Batch-Sequence: 1"))
            client = other.client(other.agent_url, token)
            for version in (1, 2):
                headers = {"Batch-Sequence": str(version)}
                assert client.post("/events/stateful", content=change(version), headers=headers).is_success
        answer = read_answer(connection)
    assert (answer.status, answer.headers["batch-sequence"]) == (409, "2")
    assert states_of(query, agent_id) == {"1": '{"v": 2}'}


def test_batches_that_wait_together_are_applied_in_the_order_of_their_numbers_or_not_at_all(
    server: Server, other: Server, management: httpx.Client, query: Query, database_url: str
) -> None:
    agent_id = server.enroll(management, "crossing")
    token = server.token(agent_id)

    def send(node: Server, number: int) -> httpx.Response:
        body = stateful(agent_id, state("1", "update", {"v": number}), state(str(number)))
        headers = {"Batch-Sequence": str(number)}
        return node.client(node.agent_url, token).post("/events/stateful", content=body, headers=headers)

    async def hold_the_lock(act: Callable[[], None]) -> None:
        connection = await asyncpg.connect(plain_url(make_url(database_url)))
        await connection.fetch("SELECT pg_advisory_lock(hashtextextended($1, 0))", str(agent_id))
        await asyncio.to_thread(act)
        await connection.close()

    def send_while_it_is_held() -> None:
        answers[2] = threads.submit(send, server, 2)
        wait_until(lambda: query(WAITING)[0][0] == 1)
        answers[1] = threads.submit(send, other, 1)
        wait_until(lambda: query(WAITING)[0][0] == 2)
        answers[3] = threads.submit(send, server, 3)

    answers: dict[int, Future[httpx.Response]] = {}
    with ThreadPoolExecutor(3) as threads:
        asyncio.run(hold_the_lock(send_while_it_is_held))
    assert {number: answer.result().status_code for number, answer in answers.items()} == {1: 409, 2: 200, 3: 200}
    assert states_of(query, agent_id) == {"1": '{"v": 3}', "2": "{}", "3": "{}"}


def test_a_batch_that_is_sent_again_is_applied_again(server: Server, management: httpx.Client, query: Query) -> None:
    agent_id = server.enroll(management, "again")
    client = server.log_in(agent_id)

    def send(number: object, *items: bytes) -> tuple[int, list[int]]:
        headers = {"Batch-Sequence": str(number)}
        answer = client.post("/events/stateful", content=stateful(agent_id, *items), headers=headers)
        return answer.status_code, [result["status"] for result in answer.json().get("results", [])]

    batch = [state("a", "update", {"v": 1}), state("b"), state("b", "delete")]
    assert send(7, *batch) == (200, [201, 201, 200])
    assert send(7, *batch) == (200, [200, 201, 200])
    assert send(6, state("a", "delete")) == (409, [])
    assert send(2**63 - 1, state("c")) == (200, [201])
    assert [send(number, state("d"))[0] for number in (0, -1, 2**63, "x", "", "1 2")] == [400] * 6
    assert states_of(query, agent_id) == {"a": '{"v": 1}', "c": "{}"}


def test_events_of_a_client_that_has_disconnected_are_not_stored(
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
    assert stored_lines(query, agent_id) == ['{"n": 2}']
