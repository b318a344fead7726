"""A stateful batch with an idempotency key is applied once, and each repetition gets the first results."""

import asyncio
import gzip
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text
from support.batches import state, stateful
from support.databases import querying
from support.duties import performing
from support.keyed import held, is_waiting, post_keyed
from support.raw import connect, request
from support.server import Server, running_server, start_server
from support.waiting import PATIENCE, wait_until

from comms_api.batches.keys import BatchKey, claim_keys, hash_key, key_duties
from comms_api.database.connection import Engine
from comms_api.database.partitions import ensure_partition
from comms_api.database.uuid7 import uuid7_at
from comms_api.errors import CommsError, Invalid, Unavailable
from comms_api.fairness.slices import Slices, exhaust
from comms_api.protocol import ItemResults, OrderResult, ReportOutcome
from comms_api.states.first_results import REASONS_MAXIMUM, decode_results, encode_results
from comms_api.states.model import StateChange, StatefulBatch
from comms_api.states.service import States

Query = Callable[..., list[Any]]
LARGE = 2_500
"""More items than one transaction applies."""


def post(node: Server, token: str, key: str, body: bytes, **headers: str) -> httpx.Response:
    return post_keyed(node, token, "/events/stateful", key, body, **headers)


def statuses_of(answer: httpx.Response) -> list[int]:
    assert answer.status_code == 200, answer.text
    return [result["status"] for result in answer.json()["results"]]


def states_of(query: Query, agent_id: UUID) -> dict[str, str]:
    return dict(query("SELECT id, data::text FROM states WHERE agent_id = $1", agent_id))


def test_a_repetition_is_not_applied_again_and_gets_the_first_results_from_any_node(
    server: Server, other: Server, management: httpx.Client, query: Query
) -> None:
    agent_id = server.enroll(management, "repeating")
    token = server.token(agent_id)
    faulty = b'{"id":"f","module":"nothing","operation":"create"}'
    body = stateful(agent_id, state("a", "create", {"v": 1}), faulty, state("a", "update", {"w": 2}), state("b"))
    first = post(server, token, "one", body)
    assert statuses_of(first) == [201, 400, 200, 201]
    change = stateful(agent_id, state("a", "update", {"v": 3}), state("b", "delete"))
    assert statuses_of(post(server, token, "two", change)) == [200, 200]
    packed = post(server, token, "one", gzip.compress(body), **{"Content-Encoding": "gzip"})
    for again in (post(server, token, "one", body), post(other, token, "one", body), packed):
        assert (again.status_code, again.content) == (200, first.content)
    assert states_of(query, agent_id) == {"a": '{"v":3,"w":2}'}


def test_the_same_key_with_another_body_is_refused_and_changes_nothing(
    server: Server, other: Server, management: httpx.Client, query: Query
) -> None:
    agent_id, neighbour = server.enroll(management, "reusing"), server.enroll(management, "neighbour")
    token = server.token(agent_id)
    assert statuses_of(post(server, token, "k", stateful(agent_id, state("a")))) == [201]
    refused = post(other, token, "k", stateful(agent_id, state("b")))
    assert (refused.status_code, refused.json()["code"]) == (422, 2721)
    assert refused.json()["detail"] == "Idempotency-Key: already used for another batch; nothing was stored"
    assert post(server, token, "K", stateful(agent_id, state("c"))).is_success
    assert states_of(query, agent_id).keys() == {"a", "c"}
    assert statuses_of(post(server, server.token(neighbour), "k", stateful(neighbour, state("a")))) == [201]


@pytest.mark.parametrize("key", ["", "with space", "x" * 129, "caf\u00e9", "tab\tinside", "a, b"])
def test_a_malformed_key_is_refused_and_the_batch_may_be_sent_again(
    server: Server, management: httpx.Client, query: Query, key: str
) -> None:
    agent_id = server.enroll(management, f"malformed {uuid4()}")
    token, body = server.token(agent_id), stateful(agent_id, state("a"))
    raw = request("POST", "/events/stateful", token, body, f"Idempotency-Key: {key}")
    with connect(server.tls, server.agent_port) as connection:
        connection.sendall(raw)
        assert connection.recv(65536).startswith(b"HTTP/1.1 400 ")
    assert states_of(query, agent_id) == {}
    assert statuses_of(post(server, token, "!" + "~" * 127, body)) == [201]


def test_a_batch_whose_answer_was_lost_is_answered_after_a_restart_of_the_node(
    folder: Path, new_database: Callable[[], str]
) -> None:
    url, home = new_database(), folder / "restarted"
    server = start_server(home, url)
    agent_id = server.enroll(server.management(), "lost")
    token, body = server.token(agent_id), stateful(agent_id, state("a"), state("a"))
    with connect(server.tls, server.agent_port) as connection:
        connection.sendall(request("POST", "/events/stateful", token, body, "Idempotency-Key: lost"))
        wait_until(lambda: connection.recv(1))
    server.stop(signal.SIGKILL)
    with running_server(home, url) as restarted:
        assert statuses_of(post(restarted, restarted.token(agent_id), "lost", body)) == [201, 409]


def test_while_a_node_applies_a_batch_the_others_are_busy_for_its_repetitions_alone(
    server: Server, other: Server, management: httpx.Client, query: Query, database_url: str
) -> None:
    agent_id, neighbour = server.enroll(management, "held"), server.enroll(management, "not held")
    token, body = server.token(agent_id), stateful(agent_id, state("a"), state("a"))
    lock = "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))"
    with ThreadPoolExecutor() as threads, held(database_url, lock, str(agent_id)):
        first = threads.submit(post, server, token, "held", body)
        wait_until(lambda: is_waiting(query))
        busy = post(other, token, "held", body)
        assert (busy.status_code, busy.headers["retry-after"].isdecimal()) == (503, True)
        theirs = stateful(neighbour, state("a"))
        assert statuses_of(post(other, server.token(neighbour), "held", theirs)) == [201]
    assert statuses_of(first.result()) == [201, 409]
    assert post(other, token, "held", body).content == first.result().content


def test_a_large_batch_is_applied_once_although_its_node_is_killed_between_two_transactions(
    folder: Path, new_database: Callable[[], str]
) -> None:
    url, home = new_database(), folder / "large"
    query, count = querying(url), "SELECT count(*) FROM states"
    doomed = start_server(home, url)
    agent_id = doomed.enroll(doomed.management(), "large")
    body = stateful(agent_id, *(state(str(number)) for number in range(LARGE)), state("0"))
    last = f"INSERT INTO states VALUES ('{agent_id}', 'fim', 'file', '{LARGE - 1}', '{{}}')"
    with running_server(home, url) as other, ThreadPoolExecutor() as threads:
        token = other.token(agent_id)
        with held(url, last):
            first = threads.submit(post, doomed, token, "large", body)
            wait_until(lambda: query(count)[0][0] > 0 and is_waiting(query))
            assert post(other, token, "large", body).status_code == 503
            doomed.stop(signal.SIGKILL)
            assert first.exception() is not None
        wait_until(lambda: not is_waiting(query))
        answers = [post(other, token, "large", body) for _ in range(2)]
        assert statuses_of(answers[0])[-2:] == [201, 409]
        assert answers[0].content == answers[1].content
        assert query(count)[0][0] == LARGE


async def no_reports(_agent_id: UUID, _results: Sequence[OrderResult]) -> Sequence[ReportOutcome]:
    return []


@asynccontextmanager
async def states_of_engine(engine: Engine) -> AsyncIterator[States]:
    states = States(engine, no_reports, Slices())
    async with performing(states), asyncio.timeout(PATIENCE):
        yield states


def batch_of(agent_id: UUID, *ids: str) -> StatefulBatch:
    keys = [(str(agent_id), "fim", "file", id_) for id_ in ids]
    return StatefulBatch([StateChange(index, key, "create", b"{}") for index, key in enumerate(keys)], [])


def key_of(agent_id: UUID, key: str, body: bytes = b"") -> BatchKey:
    return exhaust(hash_key(agent_id, "stateful", key, body))


async def outcome_of(states: States, agent_id: UUID, ids: str, key: BatchKey | None) -> list[int] | CommsError:
    try:
        answer = await states.change(agent_id, batch_of(agent_id, *ids), key=key)
    except CommsError as error:
        return error
    return [result.status for result in msgspec.json.decode(answer, type=ItemResults).results]


@pytest.mark.anyio
async def test_batches_of_one_transaction_do_not_wait_for_a_key_and_share_no_error(engine: Engine) -> None:
    agents = [uuid4() for _ in range(6)]
    used, repeated, busy, new, twice, none = agents
    async with states_of_engine(engine) as states, engine.begin() as holder:
        for agent_id in (used, repeated):
            assert await outcome_of(states, agent_id, "aa", key_of(agent_id, "k")) == [201, 409]
        await claim_keys(holder, [key_of(busy, "k")])
        outcomes = await asyncio.gather(
            outcome_of(states, used, "b", key_of(used, "k", b"another")),
            outcome_of(states, repeated, "aa", key_of(repeated, "k")),
            outcome_of(states, busy, "a", key_of(busy, "k")),
            outcome_of(states, new, "a", key_of(new, "k")),
            outcome_of(states, twice, "a", key_of(twice, "k")),
            outcome_of(states, twice, "a", key_of(twice, "k")),
            outcome_of(states, none, "a", None),
            outcome_of(states, none, "", key_of(none, "empty")),
        )
    assert isinstance(outcomes[0], Invalid)
    assert isinstance(outcomes[2], Unavailable)
    assert [outcomes[1], outcomes[3], outcomes[4], *outcomes[6:]] == [[201, 409], [201], [201], [201], []]
    assert outcomes[5] == [201] or isinstance(outcomes[5], Unavailable)  # it may share the transaction of the first


@pytest.mark.anyio
async def test_a_batch_that_fails_leaves_its_key_unused(engine: Engine) -> None:
    agent_id = uuid4()
    key = key_of(agent_id, "k")
    async with states_of_engine(engine) as states:
        await states.change(agent_id, batch_of(agent_id, "a"), 2)
        with pytest.raises(CommsError, match="older than batch 2"):
            await states.change(agent_id, batch_of(agent_id, "b"), 1, key)
        assert await outcome_of(states, agent_id, "b", key) == [201]


@pytest.mark.anyio
async def test_the_keys_of_yesterday_are_known_and_older_ones_are_dropped(engine: Engine) -> None:
    agent_id = uuid4()
    yesterday, before = (datetime.now(UTC) - timedelta(days=days) for days in (1, 2))
    await ensure_partition(engine, "batch_keys", before.date())
    move = text("UPDATE batch_keys SET id = :id WHERE key = :key")
    async with states_of_engine(engine) as states:
        for name, moment in (("yesterday", yesterday), ("before", before)):
            assert await outcome_of(states, agent_id, name[0], key_of(agent_id, name)) == [201]
            async with engine.begin() as connection:
                parameters = {"id": uuid7_at(moment.timestamp()), "key": key_of(agent_id, name).hash}
                assert await connection.change(move, parameters) == 1
        [drop] = key_duties(engine)
        await drop.perform()
        assert await outcome_of(states, agent_id, "y", key_of(agent_id, "yesterday")) == [201]
        assert await outcome_of(states, agent_id, "b", key_of(agent_id, "before")) == [409]


results = st.sampled_from([("created", 201), ("noop", 200), ("not found", 404), ("exists already", 409)])


@given(st.lists(results | st.tuples(st.text(), st.just(400)), max_size=30))
def test_recorded_results_are_read_as_they_were_written(outcomes: list[tuple[str, int]]) -> None:
    changes = batch_of(uuid4(), *map(str, range(len(outcomes)))).changes
    first = [change.outcome(*outcome) for change, outcome in zip(changes, outcomes, strict=True)]
    assert exhaust(decode_results(exhaust(encode_results("a", first)), changes)) == first


def test_recorded_results_are_small_however_many_reasons_there_are() -> None:
    changes = batch_of(uuid4(), *map(str, range(10_000))).changes
    first = [change.outcome(f"{change.index:0200}", 400) for change in changes] + [changes[0].outcome("created", 201)]
    encoded = exhaust(encode_results("a", first))
    assert len(encoded) < 40_000
    again = exhaust(decode_results(encoded, [*changes, changes[0]]))
    assert again[:REASONS_MAXIMUM] == first[:REASONS_MAXIMUM]
    assert {(result.result, result.status) for result in again[REASONS_MAXIMUM:-1]} == {("faulty", 400)}
    assert again[-1] == first[-1]
