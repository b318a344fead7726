"""Hostile and malformed bytes are stored exactly or refused alone; other items are never lost."""

import gzip
import json
from collections.abc import Callable
from contextlib import suppress
from threading import Thread
from typing import Any
from uuid import UUID

import httpx
import pytest
import zstandard
from support.batches import metadata, state, stateful, stateless
from support.events import stored_lines
from support.raw import chunked, connect, read_answer, request, send_parts
from support.server import Server, new_id

Query = Callable[..., list[Any]]


@pytest.fixture(scope="module")
def agent_id(server: Server, management: httpx.Client) -> UUID:
    return server.enroll(management, "framing")


@pytest.fixture(scope="module")
def client(server: Server, agent_id: UUID) -> httpx.Client:
    return server.log_in(agent_id)


def test_a_batch_split_at_every_byte_is_the_same_batch(server: Server, agent_id: UUID, query: Query) -> None:
    token = server.token(agent_id)
    body = stateless(agent_id, {"n": 1}, b'{"caf\xc3\xa9": "\xe2\x82\xac"}', module="split")
    plain = request("POST", "/events/stateless", token, body)
    head = plain.index(b"\r\n\r\n") + 4
    for at in range(head, len(plain)):
        assert send_parts(server.tls, server.agent_port, (plain[:at], plain[at:])).status == 204
    assert stored_lines(query, agent_id, "split") == ['{"n": 1}', '{"café": "€"}'] * (len(plain) - head)


@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_chunks_of_any_size_are_the_same_batch(server: Server, agent_id: UUID, query: Query, size: int) -> None:
    module = f"chunks{size}"
    body = chunked(stateless(agent_id, {"n": 1}, {"n": 2}, module=module), size)
    whole = request("POST", "/events/stateless", server.token(agent_id), body, "Transfer-Encoding: chunked")
    assert send_parts(server.tls, server.agent_port, [whole]).status == 204
    assert stored_lines(query, agent_id, module) == ['{"n": 1}', '{"n": 2}']


COMPRESSIONS = [("gzip", gzip.compress), ("zstd", zstandard.ZstdCompressor().compress)]


@pytest.mark.parametrize(("encoding", "compress"), COMPRESSIONS)
def test_compressed_batches_are_the_same_batch(
    client: httpx.Client, agent_id: UUID, query: Query, encoding: str, compress: Callable[[bytes], bytes]
) -> None:
    body = compress(stateless(agent_id, {"n": 1}, module=encoding))
    answer = client.post("/events/stateless", content=body, headers={"Content-Encoding": encoding})
    assert answer.status_code == 204, answer.text
    assert stored_lines(query, agent_id, encoding) == ['{"n": 1}']


@pytest.mark.parametrize(("encoding", "compress"), COMPRESSIONS)
def test_several_frames_are_one_body_and_a_truncated_frame_is_refused(
    client: httpx.Client, agent_id: UUID, query: Query, encoding: str, compress: Callable[[bytes], bytes]
) -> None:
    module = f"frames-{encoding}"
    body = stateless(agent_id, *({"n": number, "text": "x" * 40} for number in range(3_000)), module=module)
    frames = compress(body[:100]) + compress(body[100:-1]) + compress(body[-1:])
    headers = {"Content-Encoding": encoding}
    for cut in (1, len(compress(body[-1:])) + 1, len(frames) // 2):
        answer = client.post("/events/stateless", content=frames[:-cut], headers=headers)
        reason = f"The body is not valid {encoding}: it ends too early."
        assert (answer.status_code, answer.json()["message"]) == (400, reason)
    assert stored_lines(query, agent_id, module) == []
    assert client.post("/events/stateless", content=frames, headers=headers).status_code == 204
    assert len(stored_lines(query, agent_id, module)) == 3_000


@pytest.mark.parametrize(("encoding", "compress"), COMPRESSIONS)
def test_a_decompression_bomb_is_too_large(
    client: httpx.Client, encoding: str, compress: Callable[[bytes], bytes]
) -> None:
    bomb = compress(b" " * 100_000_000)
    answer = client.post("/events/stateless", content=bomb, headers={"Content-Encoding": encoding})
    assert answer.status_code == 413


BAD_LINES = {
    "not json": b"{never closed",
    "not an object": b"[1, 2]",
    "a raw NUL": b'{"a": "\x00"}',
    "ten thousand deep": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "not a number": b'{"a": NaN}',
}


@pytest.mark.parametrize("kind", BAD_LINES)
def test_a_bad_event_is_quarantined_and_its_batch_stored(
    client: httpx.Client, management: httpx.Client, agent_id: UUID, query: Query, kind: str
) -> None:
    body = stateless(agent_id, {"before": 1}, BAD_LINES[kind], {"after": 2}, module=kind)
    assert client.post("/events/stateless", content=body).status_code == 204
    assert stored_lines(query, agent_id, kind) == ['{"before": 1}', '{"after": 2}']
    page = management.get("/events/quarantine", params={"agent_id": str(agent_id), "limit": 1000}).json()
    shown = [item for item in page["items"] if item["line"].encode() in BAD_LINES[kind]]
    assert shown
    assert shown[0]["line_bytes"] == len(BAD_LINES[kind])


def test_each_event_may_have_its_own_header(client: httpx.Client, agent_id: UUID, query: Query) -> None:
    lines = [metadata(agent_id)]
    for number in range(3):
        lines += [b'{"collector":"c","module":"own%d"}' % number, b'{"n":%d}' % number]
    assert client.post("/events/stateless", content=b"\r\n".join(lines)).status_code == 204
    assert [stored_lines(query, agent_id, f"own{number}") for number in range(3)] == [
        ['{"n":0}'],
        ['{"n":1}'],
        ['{"n":2}'],
    ]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "line 1"),
        (b"{}\n", "line 1"),
        (b"nonsense\n", "line 1"),
        (b'{"module":"m"}\n{"n":1}\n', "line 1"),
        (b'{"agent":{"id":"b\xfcro"}}\n{}\n', "line 1"),
    ],
)
def test_a_batch_whose_items_cannot_be_separated_is_400_with_the_line(
    client: httpx.Client, body: bytes, message: str
) -> None:
    for path in ("/events/stateless", "/events/stateful"):
        answer = client.post(path, content=body)
        assert answer.status_code == 400
        assert message in answer.json()["message"]


OPERATIONS = ("create", "update", "delete")


def test_a_data_line_that_is_left_out_is_an_empty_object(client: httpx.Client, agent_id: UUID, query: Query) -> None:
    headers = [state(f"empty{number}", operation).partition(b"\n")[0] for number, operation in enumerate(OPERATIONS)]
    for items in ([*headers, state("kept")], [state("kept", "update"), *headers[::-1]]):
        answer = client.post("/events/stateful", content=stateful(agent_id, *items))
        assert answer.status_code == 200, answer.text
        assert {result["status"] for result in answer.json()["results"]} <= {200, 201, 404, 409}
    states = query("SELECT id, data::text FROM states WHERE agent_id = $1 AND id LIKE 'empty%' ORDER BY id", agent_id)
    assert [tuple(row) for row in states] == [("empty0", "{}"), ("empty1", "{}")]


def test_a_document_that_resembles_a_header_is_a_document_unless_it_is_a_complete_one(
    client: httpx.Client, agent_id: UUID, query: Query
) -> None:
    documents = [b'{"id":"1","module":"nft"}', b'{"operation":"update","module":5,"id":"1"}', b'{"operation":"update"}']
    items = [state(f"like{number}", data=document) for number, document in enumerate(documents)]
    complete = state("like3", data=b'{"id":"like4","module":"fim","collector":"file","operation":"create"}')
    answer = client.post("/events/stateful", content=stateful(agent_id, *items, complete))
    assert [(result["id"], result["status"]) for result in answer.json()["results"]] == [
        (f"like{number}", 201) for number in range(5)
    ]
    states = query("SELECT data::text FROM states WHERE agent_id = $1 AND id LIKE 'like%' ORDER BY id", agent_id)
    assert [row[0].encode() for row in states] == [*documents, b"{}", b"{}"]


def test_a_byte_that_is_not_utf8_is_a_fault_of_its_event_alone(
    client: httpx.Client, management: httpx.Client, agent_id: UUID, query: Query
) -> None:
    bad = b'{"o":"b\xfcro"}'
    body = stateless(
        agent_id, {"o": "good"}, bad, b'{"module":"umla\xfct","collector":"c"}', {"o": "after"}, module="latin"
    )
    odd_host = b'"hostname": "\xfc\\ud83d\\u0000\\\\ud800"'
    assert client.post("/events/stateless", content=body.replace(b'"hostname": "h"', odd_host)).is_success
    assert stored_lines(query, agent_id, "latin") == ['{"o": "good"}']
    assert stored_lines(query, agent_id, "umla\N{REPLACEMENT CHARACTER}t") == ['{"o": "after"}']
    page = management.get("/events/quarantine", params={"agent_id": str(agent_id), "limit": 1000}).json()
    shown = {item["line"]: item["reason"] for item in page["items"]}
    assert shown['{"o":"b\\xfcro"}'] == "not UTF-8 at byte 7"
    assert shown['{"module":"umla\\xfct","collector":"c"}'] == "not UTF-8 at byte 15"


def test_a_byte_that_is_not_utf8_is_a_fault_of_its_item_alone(
    client: httpx.Client, agent_id: UUID, query: Query
) -> None:
    bad_header = state("latin-header").replace(b"header", b"h\xe4der")
    items = [
        state("latin0", data={"n": 0}),
        state("latin1", data=b'{"o":"b\xfcro"}'),
        state("latin2").partition(b"\n")[0],
        bad_header,
        state("latin-header", "delete").replace(b"header", b"h\xe4der"),
        state("latin3", data={"n": 3}),
    ]
    answer = client.post("/events/stateful", content=stateful(agent_id, *items))
    assert answer.status_code == 200, answer.text
    results = answer.json()["results"]
    assert [result["status"] for result in results] == [201, 400, 201, 400, 400, 201]
    assert results[1]["result"] == "data: not UTF-8 at byte 7"
    assert results[3]["id"] == "latin-h\N{REPLACEMENT CHARACTER}der"
    states = query("SELECT id FROM states WHERE agent_id = $1 AND id LIKE 'latin%' ORDER BY id", agent_id)
    assert [row[0] for row in states] == ["latin0", "latin2", "latin3"]


def test_a_fault_of_one_item_does_not_affect_the_others(client: httpx.Client, agent_id: UUID) -> None:
    items = [
        state("good1", data={"n": 1}),
        json.dumps({"id": "x", "module": "fim"}).encode() + b'\n{"n": 1}',
        json.dumps({"id": "x", "module": "fim", "operation": "explode"}).encode() + b'\n{"n": 1}',
        state("x", module="unheard-of"),
        state("x", module="inventory", collector="unheard-of"),
        state("bad\0id"),
        state("deep", data=b'{"a":' * 10_000 + b"1" + b"}" * 10_000),
        state("array", data=b"[1]"),
        b"{garbage\n{and more",
        state("nul", data=b'{"a":"\\u0000","b":1e400}'),
        state("good2", data={"n": 2}),
    ]
    answer = client.post("/events/stateful", content=stateful(agent_id, *items))
    assert answer.status_code == 200, answer.text
    results = answer.json()["results"]
    assert [result["index"] for result in results] == list(range(len(items)))
    assert [result["status"] for result in results] == [201, *[400] * 8, 201, 201]
    again = client.post("/events/stateful", content=stateful(agent_id, state("good1", "update", {"n": 1})))
    assert again.json()["results"][0]["result"] == "noop"


def test_a_token_does_not_speak_for_another_agent(
    server: Server, management: httpx.Client, client: httpx.Client, query: Query
) -> None:
    other = server.enroll(management, "the other")
    for path, body in (
        ("/events/stateless", stateless(other, {"n": 1})),
        ("/events/stateful", stateful(other, state("a"))),
    ):
        assert client.post(path, content=body).status_code == 403
    assert stored_lines(query, other) == []
    assert query("SELECT 1 FROM states WHERE agent_id = $1", other) == []


def test_a_line_beyond_the_limit_is_413_and_the_server_continues(server: Server, client: httpx.Client) -> None:
    answer = client.post("/events/stateless", content=stateless(new_id(), b'{"a":"' + b"x" * 17 * 2**20 + b'"}'))
    assert answer.status_code == 413
    assert server.client(server.agent_url).get("/").status_code == 200


def test_two_agents_with_the_same_state_ids_at_once_keep_their_own(
    server: Server, management: httpx.Client, query: Query
) -> None:
    agents = [server.enroll(management, f"same{number}") for number in range(2)]
    clients = [server.log_in(agent) for agent in agents]
    answers: dict[int, list[dict[str, Any]]] = {0: [], 1: []}

    def send(agent_number: int) -> None:
        for round_ in range(20):
            items = [state(f"s{number}", "create", {"agent": agent_number, "round": round_}) for number in range(10)]
            items += [state(f"s{number}", "delete") for number in range(10) if round_ < 19]
            body = stateful(agents[agent_number], *items)
            answers[agent_number] += clients[agent_number].post("/events/stateful", content=body).json()["results"]

    threads = [Thread(target=send, args=(agent_number,)) for agent_number in answers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result["status"] for result in answers[0]] == [result["status"] for result in answers[1]]
    assert {result["status"] for result in answers[0]} == {200, 201}
    for agent_number, agent in enumerate(agents):
        rows = query("SELECT data->>'agent' FROM states WHERE agent_id = $1", agent)
        assert [row[0] for row in rows] == [str(agent_number)] * 10


def test_a_line_without_an_end_is_413_and_costs_no_memory(server: Server, agent_id: UUID) -> None:
    head = request("POST", "/events/stateless", server.token(agent_id), b"", "Transfer-Encoding: chunked")
    chunk = b"100000\r\n" + b"x" * 2**20 + b"\r\n"
    before = server.resident_bytes()
    with connect(server.tls, server.agent_port) as connection:
        connection.sendall(head)
        for _ in range(20):
            connection.sendall(chunk)
        assert read_answer(connection).status == 413
        with suppress(OSError):
            for _ in range(1000):
                connection.sendall(chunk)
    assert server.resident_bytes() - before < 64 * 2**20


def test_a_replayed_stateful_batch_gives_the_same_states(client: httpx.Client, agent_id: UUID, query: Query) -> None:
    body = stateful(agent_id, state("replay", "update", {"a": 1}), state("gone", "update", {}), state("gone", "delete"))
    states = "SELECT id, data::text FROM states WHERE agent_id = $1 AND id IN ('replay', 'gone') ORDER BY id"
    answers = [client.post("/events/stateful", content=body)]
    first = [tuple(row) for row in query(states, agent_id)]
    answers.append(client.post("/events/stateful", content=body))
    assert [answer.status_code for answer in answers] == [200, 200], [answer.text for answer in answers]
    assert [tuple(row) for row in query(states, agent_id)] == first == [("replay", '{"a": 1}')]
