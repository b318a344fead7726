"""Batches that are expensive to read, to merge or to answer affect only their agent."""

import asyncio
import gzip
import json
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest
import zstandard
from sqlalchemy import make_url
from support.batches import metadata, state, stateful, stateless
from support.databases import plain_url
from support.events import incompressible, stored_lines
from support.others import assert_others_are_served
from support.raw import Answer, connect, read_answer, request
from support.server import Server, running_server
from support.speed import assert_no_long_step, slowness
from support.waiting import PATIENCE, wait_until

MIB = 2**20
BAD_LINES = 399_000
STATES, STATE_BYTES = 60, 1_000_000
Query = Callable[..., list[Any]]
WAITING_INSERTS = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock'
        AND query LIKE '%INSERT INTO event_batches%'"""


@pytest.fixture(scope="module")
def server(folder: Path, database_url: str) -> Iterator[Server]:
    with running_server(folder, database_url) as running:
        yield running
        assert_no_long_step(running)


def post(server: Server, agent_id: UUID, path: str, body: bytes, *headers: str) -> Answer:
    with connect(server.tls, server.agent_port) as connection:
        connection.settimeout(PATIENCE)
        connection.sendall(request("POST", path, server.token(agent_id), body, *headers))
        return read_answer(connection)


def results_of(answer: Answer) -> list[dict[str, Any]]:
    assert answer.status == 200, answer.body[:500]
    results: list[dict[str, Any]] = json.loads(answer.body)["results"]
    return results


def test_parallel_batches_of_bad_lines_are_read_one_by_one_and_charged_to_the_agent(
    server: Server, management: httpx.Client, quiet: UUID
) -> None:
    loud = server.enroll(management, "loud with lines")
    body = gzip.compress(metadata(loud) + b"\n" + b"x\n" * BAD_LINES)
    assert len(body) < 1_500
    before = server.cpu_seconds()
    with ThreadPoolExecutor(24) as crowd:
        answers = list(
            crowd.map(lambda _: post(server, loud, "/events/stateful", body, "Content-Encoding: gzip"), range(23))
        )
        assert_others_are_served(server, management, quiet)
    used = server.cpu_seconds() - before
    statuses = [answer.status for answer in answers]
    assert {200} < set(statuses) <= {200, 429, 503}  # 503 when its waiting bodies exceed its share
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers if answer.status != 200)
    assert used < 8 * slowness(), f"{used} CPU seconds, {statuses}"
    assert results_of(next(answer for answer in answers if answer.status == 200))[0]["status"] == 400


def test_faults_are_answered_one_by_one_in_a_bounded_answer(server: Server, management: httpx.Client) -> None:
    loud = server.enroll(management, "loud with faults")
    wrong = b'{"id":"1","module":"fim","operation":"%s"}\n' % (b"x" * 1_000)
    small = b'{"id":"1","module":"fim"}\n'
    body = zstandard.compress(metadata(loud) + b"\n" + wrong * 5_000 + small * 100_000)
    answer = post(server, loud, "/events/stateful", body, "Content-Encoding: zstd")
    results = results_of(answer)
    assert [result["index"] for result in results] == list(range(105_000))
    assert {result["status"] for result in results} == {400}
    assert max(len(result["result"]) for result in results) == 200
    assert "Invalid enum value" in results[0]["result"]
    assert len(answer.body) < 8 * MIB


def test_a_real_batch_of_very_many_lines_passes(server: Server, management: httpx.Client, query: Query) -> None:
    honest = server.enroll(management, "large inventory")
    items = [state(str(number), "update", {"n": number}) for number in range(20_000)]
    for status in (201, 200):
        answer = post(server, honest, "/events/stateful", stateful(honest, *items))
        assert {result["status"] for result in results_of(answer)} == {status}
    events = [b'{"n":%d}' % number for number in range(100_000)]
    assert post(server, honest, "/events/stateless", stateless(honest, *events)).status == 204
    assert query("SELECT sum(events) FROM event_batches WHERE agent_id = $1", honest) == [(100_000,)]
    assert query("SELECT count(*) FROM states WHERE agent_id = $1", honest) == [(20_000,)]


@pytest.mark.parametrize("path", ["/events/stateless", "/events/stateful"])
def test_the_largest_bodies_are_read_without_a_long_step(
    server: Server, management: httpx.Client, quiet: UUID, path: str
) -> None:
    loud = server.enroll(management, f"largest {path}")
    lines = {
        "one line": b'{"a":[' + b"1," * (7 * MIB) + b"1]}",
        "empty lines": b"\n" * 15 * MIB,
        "lines that are no JSON": b"x" * 40 + b"\n",
    }
    for kind, line in lines.items():
        body = metadata(loud) + b'\n{"module":"m","collector":"c"}\n'
        body += line * (380_000 if kind.startswith("lines") else 1)
        answer = post(server, loud, path, zstandard.compress(body), "Content-Encoding: zstd")
        assert answer.status in {200, 204, 413, 429}, (kind, answer.body)
    assert_others_are_served(server, management, quiet)


def test_deep_updates_of_one_state_are_merged_without_a_long_step(
    server: Server, management: httpx.Client, quiet: UUID
) -> None:
    loud = server.enroll(management, "loud with depth")

    def nested(leaf: bytes) -> bytes:
        return b'{"a":' * 30 + leaf + b"}" * 30

    items = [state("1", "update", nested(b'{"m%d":1}' % number)) for number in range(20_000)]
    body = zstandard.compress(stateful(loud, *items))
    answer = post(server, loud, "/events/stateful", body, "Content-Encoding: zstd")
    assert {result["status"] for result in results_of(answer)} == {200, 201}
    assert_others_are_served(server, management, quiet)


def test_large_states_of_very_many_members_are_merged_without_a_long_step(
    server: Server, management: httpx.Client
) -> None:
    loud = server.enroll(management, "loud with members")

    def document(offset: int) -> bytes:
        return b'{"inner":{' + b",".join(b'"%x":%d' % (number, offset) for number in range(50_000)) + b"}}"

    for offset in (1, 2):
        items = [state(str(number), "update", document(offset)) for number in range(3)]
        answer = post(server, loud, "/events/stateful", stateful(loud, *items))
        if answer.status == 429:
            return  # the agent owes CPU time for the first batches
        assert {result["status"] for result in results_of(answer)} <= {200, 201}


def test_a_small_batch_that_touches_large_states_is_applied_in_bounded_memory(
    server: Server, management: httpx.Client, quiet: UUID, query: Query
) -> None:
    loud = server.enroll(management, "loud with states")
    query(
        "INSERT INTO states (agent_id, module, collector, id, data) SELECT $1, 'fim', 'file', n::text,"
        " json_build_object('text', repeat('x', $2)) FROM generate_series(1, $3) AS n",
        loud, STATE_BYTES, STATES,
    )  # fmt: skip
    items = [state(str(number), "update", {"n": 1}) for number in range(1, STATES + 1)]
    mixed = [state("new"), state("new", "update", {"n": 2}), state("1", "delete"), state("1"), state("gone", "delete")]
    before = server.resident_bytes()
    answer = post(server, loud, "/events/stateful", stateful(loud, *items, *mixed), "Batch-Sequence: 3")
    results = results_of(answer)
    assert [result["status"] for result in results] == [200] * STATES + [201, 200, 200, 201, 404]
    assert [result["index"] for result in results] == list(range(STATES + 5))
    assert server.resident_bytes() - before < 40 * MIB
    rows = query("SELECT id, data::jsonb ->> 'n' FROM states WHERE agent_id = $1", loud)
    assert dict(rows) == {str(number): "1" for number in range(2, STATES + 1)} | {"1": None, "new": "2"}
    older = post(server, loud, "/events/stateful", stateful(loud, *items), "Batch-Sequence: 2")
    assert older.status == 409
    assert_others_are_served(server, management, quiet)


def test_lines_are_charged_in_addition_to_their_bytes(
    server: Server, management: httpx.Client, quiet: UUID, query: Query
) -> None:
    agents = [server.enroll(management, f"lines {number}") for number in range(8)]
    header = b'{"module":"lines","collector":"c"}\n'
    before = server.resident_bytes()

    def send(agent_id: UUID) -> Answer:
        body = zstandard.compress(metadata(agent_id) + b"\n" + header + b"{}\n" * 300_000)
        return post(server, agent_id, "/events/stateless", body, "Content-Encoding: zstd")

    with ThreadPoolExecutor(len(agents)) as crowd:
        answers = crowd.map(send, agents)
        assert_others_are_served(server, management, quiet)
    statuses = [answer.status for answer in answers]
    assert 204 in statuses
    assert set(statuses) <= {204, 503}
    stored = query("SELECT coalesce(sum(events), 0) FROM event_batches WHERE streams ? 'lines'")
    assert stored == [(300_000 * statuses.count(204),)]
    assert server.resident_bytes() - before < 256 * MIB


def test_batches_whose_clients_have_disconnected_are_not_stored(
    server: Server, management: httpx.Client, query: Query, database_url: str
) -> None:
    agents = [server.enroll(management, f"impatient {number}") for number in range(12)]
    tokens = [server.token(agent_id) for agent_id in agents]

    def begin(stack: ExitStack, number: int) -> ssl.SSLSocket:
        body = stateless(agents[number], incompressible(250_000), module="left")
        connection = stack.enter_context(connect(server.tls, server.agent_port))
        connection.sendall(request("POST", "/events/stateless", tokens[number], body))
        return connection

    def writer_waits() -> bool:
        return bool(query(WAITING_INSERTS)[0][0] == 1)

    async def hold_the_table(act: Callable[[], None]) -> None:
        holder = await asyncpg.connect(plain_url(make_url(database_url)))
        async with holder.transaction():
            await holder.execute("LOCK TABLE event_batches IN ACCESS EXCLUSIVE MODE")
            await asyncio.to_thread(act)
        await holder.close()

    with ExitStack() as patient, ExitStack() as impatient:
        kept: list[ssl.SSLSocket] = []

        def send_while_it_is_held() -> None:
            kept.append(begin(patient, 0))
            wait_until(writer_waits)
            for number in range(1, len(agents)):
                begin(impatient, number)
            impatient.close()

        asyncio.run(hold_the_table(send_while_it_is_held))
        assert [read_answer(connection).status for connection in kept] == [204]
    last = server.client(server.agent_url, tokens[-1])
    assert last.post("/events/stateless", content=stateless(agents[-1], {}, module="last")).status_code == 204
    assert len(stored_lines(query, module="left")) == 1
