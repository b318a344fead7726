"""Clients that open many streams and exports, and read none of them, do not affect other clients."""

import json
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from support.batches import command
from support.events import batch_of, store_batch
from support.keyed import held, is_waiting
from support.others import assert_others_are_served
from support.raw import connect, read_answer, request
from support.server import Server, running_server
from support.waiting import PATIENCE, wait_until

from comms_api.commands.watching import WATCHERS_OF_USER_MAXIMUM
from comms_api.database.pages import PAGE_BYTES_MAXIMUM
from comms_api.database.uuid7 import uuid7_at
from comms_api.events.reading.tail import FOLLOWERS_OF_USER_MAXIMUM
from comms_api.http.answers import SHARE_BYTES

MIB = 2**20
RESULT_BYTES = 256 * 1024
RESULTS = 100
GROWTH_BYTES_MAXIMUM = 80 * MIB
POOL_CONNECTIONS = 2
EXPORTS_OF_USER_MAXIMUM = SHARE_BYTES // PAGE_BYTES_MAXIMUM
EVENT_EXPORTS_OF_USER_MAXIMUM = SHARE_BYTES // (2 * PAGE_BYTES_MAXIMUM)
EVENT_BATCHES, EVENTS = 10, 32
AS_LINES = "Accept: application/x-ndjson"
ALL_EVENTS = "/events?contains=xxx"
FOLLOWED = "/events/tail?since=2020-01-01T00:00:00Z&limit=1000&contains=xxx"


@pytest.fixture(scope="module")
def server(folder: Path, database_url: str) -> Iterator[Server]:
    """A node that ends nothing because of a time limit during a test."""
    limits = dict.fromkeys(("answer_stall_seconds", "database_timeout_seconds"), 10 * PATIENCE)
    with running_server(folder, database_url, database_pool_size=POOL_CONNECTIONS, **limits) as running:
        yield running


@pytest.fixture(scope="module")
def request_id(server: Server, management: httpx.Client) -> str:
    """A command that waits for its agent."""
    answer = management.post("/commands", json=command(server.enroll(management, "away")))
    return str(answer.json()["commands"][0]["request_id"])


def ask(stack: ExitStack, server: Server, user: httpx.Client, path: str, *headers: str) -> ssl.SSLSocket:
    """Send a request, and read nothing."""
    connection = stack.enter_context(connect(server.tls, server.management_port))
    token = user.headers["Authorization"].removeprefix("Bearer ")
    connection.sendall(request("GET", path, token, b"", *headers))
    return connection


def has_begun(connection: ssl.SSLSocket) -> bool:
    """Wait for the first bytes of an answer, and return whether it is a success."""
    return connection.recv(len(b"HTTP/1.1 200")) == b"HTTP/1.1 200"


def test_one_user_cannot_occupy_every_watch(
    server: Server, management: httpx.Client, quiet: UUID, request_id: str
) -> None:
    greedy, modest = (server.user(management, name, "reader") for name in ("greedy", "modest"))
    path = f"/commands/{request_id}/events"
    with ExitStack() as stack:
        streams = [ask(stack, server, greedy, path) for _ in range(WATCHERS_OF_USER_MAXIMUM)]
        assert [stream.recv(1) for stream in streams] == [b"H"] * WATCHERS_OF_USER_MAXIMUM
        for refused in (path, f"/commands/{request_id}/wait"):
            answer = read_answer(ask(stack, server, greedy, refused))
            assert (answer.status, int(answer.headers["retry-after"]) >= 1) == (429, True)
        assert read_answer(ask(stack, server, modest, path)).status == 200
        assert_others_are_served(server, management, quiet)
    wait_until(lambda: greedy.get(f"/commands/{request_id}/wait?timeout=0").status_code == 200)


def test_unread_exports_hold_no_database_connection_and_little_memory(
    server: Server, management: httpx.Client, quiet: UUID, request_id: str, query: Callable[..., Any]
) -> None:
    ids = [uuid7_at(time.time()) for _ in range(RESULTS)]
    query(
        "INSERT INTO finished_orders (order_id, request_id, agent_id, agent_groups, attempt, created_at, expires_at, "
        "finished_at, status, result_data) SELECT order_id, $1, $2, '{}', 1, now(), now(), now(), 'success', "
        "CAST($4 AS json) FROM unnest(CAST($3 AS uuid[])) AS order_id",
        UUID(request_id),
        quiet,
        ids,
        json.dumps("x" * RESULT_BYTES),
    )
    readers = [server.user(management, f"exporter{number}", "reader") for number in range(3)]
    before = server.resident_bytes()
    path = f"/commands/{request_id}/results"
    with ExitStack() as stack:
        exports = [ask(stack, server, reader, path) for reader in readers for _ in range(2)]
        assert [export.recv(1) for export in exports] == [b"H"] * len(exports)
        assert len(exports) > POOL_CONNECTIONS
        assert_others_are_served(server, management, quiet)
        assert readers[0].get("/orders", params={"limit": 1}).status_code == 200
        assert server.resident_bytes() - before < GROWTH_BYTES_MAXIMUM
    lines = readers[0].get(path).text.splitlines()
    assert {json.loads(line)["order_id"] for line in lines} >= {str(order_id) for order_id in ids}


def test_a_user_with_many_unread_exports_waits_before_the_next_one(
    server: Server, management: httpx.Client, quiet: UUID, request_id: str
) -> None:
    greedy = server.user(management, "hoarder", "reader")
    path = f"/commands/{request_id}/results"
    with ExitStack() as stack:
        exports = [ask(stack, server, greedy, path) for _ in range(EXPORTS_OF_USER_MAXIMUM)]
        assert [export.recv(1) for export in exports] == [b"H"] * len(exports)
        answer = read_answer(ask(stack, server, greedy, path))
        assert (answer.status, b"your whole share" in answer.body) == (503, True)
        assert_others_are_served(server, management, quiet)
    wait_until(lambda: greedy.get("/orders", params={"limit": 1}).status_code == 200)


@pytest.fixture(scope="module")
def large_events(quiet: UUID, query: Callable[..., Any]) -> None:
    """More events than an unread answer may hold in memory."""
    event = b'{"text":"%s"}' % (b"x" * RESULT_BYTES)
    for _ in range(EVENT_BATCHES):
        batch = batch_of(uuid7_at(time.time()), quiet, [event] * EVENTS)
        store_batch(query, batch)


@pytest.mark.usefixtures("large_events")
def test_unread_exports_of_events_hold_little_memory_and_delay_nobody(
    server: Server, management: httpx.Client, quiet: UUID
) -> None:
    greedy, modest = (server.user(management, f"{name}-exporter", "reader") for name in ("greedy", "modest"))
    before = server.resident_bytes()
    with ExitStack() as stack:
        exports = [ask(stack, server, greedy, ALL_EVENTS, AS_LINES) for _ in range(EVENT_EXPORTS_OF_USER_MAXIMUM)]
        assert all(map(has_begun, exports))
        refused = read_answer(ask(stack, server, greedy, ALL_EVENTS, AS_LINES))
        assert (refused.status, b"your whole share" in refused.body) == (503, True)
        assert_others_are_served(server, management, quiet)
        answer = modest.get(ALL_EVENTS, headers={"Accept": "application/x-ndjson"})
        assert len(answer.text.splitlines()) == EVENT_BATCHES * EVENTS
        assert server.resident_bytes() - before < GROWTH_BYTES_MAXIMUM
    wait_until(lambda: greedy.get("/events", params={"limit": 1}).status_code == 200)


@pytest.mark.usefixtures("large_events")
def test_followers_who_do_not_read_hold_little_memory_and_delay_nobody(
    server: Server, management: httpx.Client, quiet: UUID
) -> None:
    greedy, modest = (server.user(management, f"{name}-follower", "reader") for name in ("greedy", "modest"))
    before = server.resident_bytes()
    with ExitStack() as stack:
        answers = [ask(stack, server, greedy, FOLLOWED) for _ in range(FOLLOWERS_OF_USER_MAXIMUM)]
        assert all(map(has_begun, answers))
        assert_others_are_served(server, management, quiet)
        assert modest.get(FOLLOWED).json()["items"]
        assert server.resident_bytes() - before < GROWTH_BYTES_MAXIMUM


@pytest.mark.parametrize("path", [ALL_EVENTS, FOLLOWED])
def test_the_query_of_a_client_that_has_disconnected_ends(
    server: Server, management: httpx.Client, database_url: str, query: Callable[..., Any], path: str
) -> None:
    with held(database_url, "LOCK TABLE event_batches"):
        with ExitStack() as stack:
            ask(stack, server, management, path, AS_LINES)
            wait_until(lambda: is_waiting(query))
        wait_until(lambda: not is_waiting(query))
    assert management.get("/events", params={"limit": 1}).status_code == 200
