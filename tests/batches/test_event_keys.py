"""The events of a batch with an idempotency key are stored once, whatever is lost or killed in between."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from threading import Event
from typing import Any
from uuid import UUID, uuid4

import httpx
import msgspec
import pytest
import zstandard
from sqlalchemy import text
from support.batches import stateless
from support.databases import querying
from support.duties import performing
from support.events import batch_of, stored_lines
from support.keyed import held, is_waiting, post_keyed
from support.raw import connect, request
from support.server import Server, running_server, start_server
from support.waiting import PATIENCE, wait_until

from comms_api.batches.keys import BatchKey, claim_keys, hash_key
from comms_api.database.connection import Engine
from comms_api.database.uuid7 import uuid7_at
from comms_api.errors import CommsError, Invalid, Unavailable
from comms_api.events.postgresql_sink import PostgresqlSink
from comms_api.fairness.slices import exhaust

Query = Callable[..., list[Any]]


def post(node: Server, token: str, key: str, body: bytes, **headers: str) -> httpx.Response:
    return post_keyed(node, token, "/events/stateless", key, body, **headers)


def test_a_repetition_is_stored_once_by_any_node_and_in_any_encoding(
    server: Server, other: Server, management: httpx.Client, query: Query
) -> None:
    agent_id = server.enroll(management, "repeating")
    token, body = server.token(agent_id), stateless(agent_id, {"n": 1}, {"n": 1})
    packed = zstandard.compress(body)
    for node in (server, other):
        assert post(node, token, "one", body).status_code == 204
        assert post(node, token, "one", packed, **{"Content-Encoding": "zstd"}).status_code == 204
    assert stored_lines(query, agent_id) == ['{"n": 1}'] * 2
    assert post(server, token, "two", body).status_code == 204
    assert server.client(server.agent_url, token).post("/events/stateless", content=body).status_code == 204
    assert stored_lines(query, agent_id) == ['{"n": 1}'] * 6


def test_another_body_with_the_same_key_is_refused_and_a_malformed_key_loses_nothing(
    server: Server, other: Server, management: httpx.Client, query: Query
) -> None:
    agent_id = server.enroll(management, "reusing")
    token = server.token(agent_id)
    assert post(server, token, "k", stateless(agent_id, {"n": 1})).status_code == 204
    refused = post(other, token, "k", stateless(agent_id, {"n": 2}))
    assert (refused.status_code, refused.json()["code"]) == (422, 2721)
    assert post(other, token, "k" * 129, stateless(agent_id, {"n": 2})).status_code == 400
    assert post(other, token, "k" * 128, stateless(agent_id, {"n": 2})).status_code == 204
    assert stored_lines(query, agent_id) == ['{"n": 1}', '{"n": 2}']


def test_the_invalid_lines_of_a_batch_are_quarantined_once(
    server: Server, other: Server, management: httpx.Client, query: Query
) -> None:
    agent_id = server.enroll(management, "faulty")
    token, mixed, faulty = server.token(agent_id), stateless(agent_id, {"n": 1}, b"one"), stateless(agent_id, b"two")
    for node in (server, other):
        assert post(node, token, "mixed", mixed).status_code == 204
        assert post(node, token, "faulty", faulty).status_code == 204
        assert post(node, token, "mixed", stateless(agent_id, {"n": 1}, b"three")).status_code == 422
        assert post(node, token, "mixed", stateless(agent_id, b"four")).status_code == 422
        assert post(node, token, "faulty", stateless(agent_id, {"n": 2})).status_code == 422
    lines = query("SELECT line FROM quarantined_events WHERE agent_id = $1 ORDER BY id", agent_id)
    assert [line for [line] in lines] == [b"one", b"two"]
    assert stored_lines(query, agent_id) == ['{"n": 1}']


def test_while_a_node_stores_a_batch_the_others_are_busy_for_its_repetitions(
    server: Server, other: Server, management: httpx.Client, query: Query, database_url: str
) -> None:
    agent_id = server.enroll(management, "held")
    token, body = server.token(agent_id), stateless(agent_id, {"n": 1})
    with ThreadPoolExecutor() as threads, held(database_url, "LOCK TABLE event_batches IN SHARE MODE"):
        first = threads.submit(post, server, token, "held", body)
        wait_until(lambda: is_waiting(query))
        busy = post(other, token, "held", body)
        assert (busy.status_code, busy.headers["retry-after"].isdecimal()) == (503, True)
    assert first.result().status_code == 204
    assert post(other, token, "held", body).status_code == 204
    assert stored_lines(query, agent_id) == ['{"n": 1}']


def test_a_batch_whose_node_is_killed_before_the_answer_is_stored_once(
    folder: Path, new_database: Callable[[], str]
) -> None:
    url, home = new_database(), folder / "killed"
    doomed = start_server(home, url)
    agent_id = doomed.enroll(doomed.management(), "lost")
    token, body = doomed.token(agent_id), stateless(agent_id, {"n": 1})
    with connect(doomed.tls, doomed.agent_port) as connection:
        connection.sendall(request("POST", "/events/stateless", token, body, "Idempotency-Key: lost"))
        wait_until(lambda: connection.recv(1))
    doomed.stop(signal.SIGKILL)
    with running_server(home, url) as restarted:
        assert post(restarted, restarted.token(agent_id), "lost", body).status_code == 204
    assert stored_lines(querying(url), agent_id) == ['{"n": 1}']


AGENTS, BATCHES = 4, 25


def send_until_stored(nodes: Sequence[Server], node: int, token: str, key: str, body: bytes) -> None:
    """Send a batch to a node, which may be replaced, until it is stored."""
    while True:
        try:
            answer = post(nodes[node], token, key, body)
        except httpx.TransportError:
            continue
        assert answer.status_code in {204, 503}, answer.text
        if answer.is_success:
            return


def test_nothing_is_lost_or_stored_twice_although_a_node_is_killed_and_batches_reach_both(
    folder: Path, new_database: Callable[[], str]
) -> None:
    url, home, half_way = new_database(), folder / "storm", Event()
    nodes = [start_server(home, url, node_name=name) for name in ("first", "second")]
    management = nodes[0].management()
    agents = [nodes[0].enroll(management, f"storm {number}") for number in range(AGENTS)]

    def send_all(agent_id: UUID, token: str, node: int) -> None:
        for number in range(BATCHES):
            send_until_stored(nodes, node, token, str(number), stateless(agent_id, {"n": number}))
            if number == BATCHES // 2:
                half_way.set()

    with ThreadPoolExecutor(2 * AGENTS) as threads:
        tokens = {agent_id: nodes[0].token(agent_id) for agent_id in agents}
        senders = [threads.submit(send_all, *pair, node) for pair in tokens.items() for node in (0, 1)]
        half_way.wait(PATIENCE)
        nodes[1].stop(signal.SIGKILL)
        nodes[1] = start_server(home, url, node_name="second")
        for sender in senders:
            sender.result()
    expected = sorted(f'{{"n": {number}}}' for number in range(BATCHES))
    assert [sorted(stored_lines(querying(url), agent_id)) for agent_id in agents] == [expected] * AGENTS
    for node in nodes:
        node.stop()


@asynccontextmanager
async def opened_sink(engine: Engine) -> AsyncIterator[PostgresqlSink]:
    sink = PostgresqlSink(engine)
    async with performing(sink), asyncio.timeout(PATIENCE):
        yield sink


async def error_of(sink: PostgresqlSink, agent_id: UUID, key: BatchKey | None) -> CommsError | None:
    batch = msgspec.structs.replace(batch_of(uuid7_at(time.time()), agent_id, [b"{}"]), key=key)
    try:
        await sink.append(batch)
    except CommsError as error:
        return error
    return None


@pytest.mark.anyio
async def test_batches_of_one_commit_do_not_wait_for_a_key_and_share_no_error(engine: Engine) -> None:
    used, repeated, busy, new, twice, plain = agents = [uuid4() for _ in range(6)]
    keys = {agent_id: exhaust(hash_key(agent_id, "stateless", "k", b"")) for agent_id in agents}
    another = exhaust(hash_key(used, "stateless", "k", b"another"))
    async with opened_sink(engine) as sink, engine.begin() as holder:
        assert [await error_of(sink, agent_id, keys[agent_id]) for agent_id in (used, repeated)] == [None, None]
        await claim_keys(holder, [keys[busy]])
        # The first writer takes half of these, and the second one the others.
        errors = await asyncio.gather(
            error_of(sink, plain, None),
            error_of(sink, busy, keys[busy]),
            error_of(sink, new, keys[new]),
            error_of(sink, repeated, keys[repeated]),
            error_of(sink, used, another),
            error_of(sink, twice, keys[twice]),
            error_of(sink, twice, keys[twice]),
        )
        counts = await holder.execute(
            text("SELECT agent_id, count(*), min(xact) FROM event_batches WHERE agent_id = ANY(:ids) GROUP BY 1"),
            {"ids": agents},
        )
    assert [errors[0], *errors[2:4], errors[5]] == [None] * 4
    assert isinstance(errors[1], Unavailable)
    assert isinstance(errors[4], Invalid)
    assert errors[6] is None or isinstance(errors[6], Unavailable)  # it may share the commit of the first
    assert {agent_id: count for agent_id, count, _ in counts} == dict.fromkeys([used, repeated, new, twice, plain], 1)
    commits = {agent_id: xact for agent_id, _, xact in counts}
    assert commits[new] == commits[plain]
