"""Bodies that are announced large, arrive slowly, expand hugely or arrive all at once affect only their sender."""

import gzip
import select
import ssl
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from uuid import UUID, uuid4

import httpx
import pytest
import zstandard
from support.batches import stateless
from support.others import assert_others_are_served
from support.raw import Answer, connect, read_answer, request
from support.server import Server, running_server
from support.speed import slowness
from support.waiting import PATIENCE

from bench.hostile import EMPTY_GZIP, EMPTY_ZSTD, SKIPPED_ZSTD
from comms_api.compression import Decoder, decoder_of
from comms_api.errors import Malformed

MIB = 2**20
BODY_BYTES = MIB
IN_FLIGHT_BYTES = 32 * MIB
CROWD = 60


@pytest.fixture(scope="module")
def server(folder: Path, database_url: str) -> Iterator[Server]:
    limits = {"body_bytes_maximum": BODY_BYTES, "bytes_in_flight_maximum": IN_FLIGHT_BYTES}
    with running_server(folder, database_url, **limits) as running:
        yield running


@pytest.fixture
def loud(server: Server, management: httpx.Client) -> UUID:
    """A new agent, which owes no CPU time for the bodies of other tests."""
    return server.enroll(management, f"loud-{uuid4()}")


def decode_all(decoder: Decoder) -> bytes:
    pieces = []
    while not decoder.is_done:
        pieces.append(decoder.decode_piece())
    return b"".join(pieces)


def test_a_public_route_accepts_only_small_bodies(server: Server) -> None:
    for port, path in ((server.management_port, "/security/user/refresh"), (server.agent_port, "/login")):
        with connect(server.tls, port) as connection:
            connection.sendall(request("POST", path, None, b"", "Content-Length: 16777216") + b"{")
            assert read_answer(connection).status == 413


def test_unfinished_bodies_without_a_token_do_not_keep_others_out(
    server: Server, management: httpx.Client, quiet: UUID
) -> None:
    login = request("POST", "/login", None, b"", "Content-Length: 8192") + b"{" * 8191
    with ExitStack() as stack:
        for _ in range(520):
            stack.enter_context(connect(server.tls, server.agent_port)).sendall(login)
        assert_others_are_served(server, management, quiet)


BOMBS = {
    "empty zstd frames": ("zstd", EMPTY_ZSTD * 100_000),
    "skippable zstd frames": ("zstd", SKIPPED_ZSTD * 100_000),
    "empty gzip members": ("gzip", EMPTY_GZIP * 50_000),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_body_of_very_many_frames_is_refused_at_little_cost(server: Server, loud: UUID, name: str) -> None:
    encoding, body = BOMBS[name]
    before = server.cpu_seconds()
    with server.log_in(loud) as agent:
        answer = agent.post("/events/stateless", content=body, headers={"Content-Encoding": encoding})
    assert answer.status_code == 400, answer.text
    assert "more than 64 compressed frames" in answer.json()["detail"]
    assert server.cpu_seconds() - before < 0.5 * slowness()


@pytest.mark.parametrize(
    ("encoding", "frame"),
    [("zstd", EMPTY_ZSTD), ("zstd", SKIPPED_ZSTD), ("gzip", EMPTY_GZIP)],
    ids=["empty zstd", "skippable zstd", "empty gzip"],
)
def test_frames_are_counted_without_a_copy_of_the_rest_of_the_body(encoding: str, frame: bytes) -> None:
    decoder = decoder_of(encoding, frame * 500_000)
    tracemalloc.start()
    with pytest.raises(Malformed, match="more than 64"):
        decode_all(decoder)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 2 * MIB


def test_zeros_may_follow_a_gzip_member() -> None:
    body = gzip.compress(b"a") + b"\0" * MIB + gzip.compress(b"b") + b"\0"
    assert decode_all(decoder_of("gzip", body)) == b"ab"


@pytest.mark.parametrize("encoding", ["zstd", "gzip"])
def test_a_body_that_expands_beyond_the_limit_is_413(server: Server, loud: UUID, encoding: str) -> None:
    large = b"\0" * 64 * MIB
    body = zstandard.compress(large) if encoding == "zstd" else gzip.compress(large)
    with server.log_in(loud) as agent:
        answer = agent.post("/events/stateless", content=body, headers={"Content-Encoding": encoding})
    assert answer.status_code == 413


def test_a_body_in_several_frames_is_read_whole(server: Server, loud: UUID) -> None:
    body = stateless(loud, {"n": 1}, {"n": 2}, module="frames")
    first, second = body[:50], body[50:]
    for encoding, content in (
        ("zstd", zstandard.compress(first) + SKIPPED_ZSTD + zstandard.compress(second)),
        ("gzip", gzip.compress(first) + gzip.compress(second) + b"\0" * 10),
    ):
        with server.log_in(loud) as agent:
            answer = agent.post("/events/stateless", content=content, headers={"Content-Encoding": encoding})
        assert answer.status_code == 204, answer.text


def test_an_agent_that_fills_its_share_is_503_and_another_is_served(
    server: Server, management: httpx.Client, loud: UUID, quiet: UUID
) -> None:
    upload = request("POST", "/events/stateless", server.token(loud), b"", f"Content-Length: {BODY_BYTES}")
    with ExitStack() as stack:
        held = [stack.enter_context(connect(server.tls, server.agent_port)) for _ in range(6)]
        for connection in held:
            connection.sendall(upload + b"x" * (BODY_BYTES - 1))
        answer = read_answer(first_readable(held))
        assert answer.status == 503, answer.body
        assert b"your whole share" in answer.body
        assert int(answer.headers["retry-after"]) >= 1
        assert_others_are_served(server, management, quiet)


def first_readable(connections: list[ssl.SSLSocket]) -> ssl.SSLSocket:
    """Wait until one of the connections has an answer."""
    readable, _, _ = select.select(connections, [], [], PATIENCE)
    found: ssl.SSLSocket = readable[0]
    return found


def test_no_room_is_held_for_bytes_that_a_client_announces_and_does_not_send(
    server: Server, management: httpx.Client, loud: UUID, quiet: UUID
) -> None:
    agents = [server.enroll(management, f"slow-{number}") for number in range(10)]
    head = "Content-Length: " + str(BODY_BYTES)
    with ExitStack() as stack:
        for agent_id in agents:
            token = server.token(agent_id)
            for _ in range(2):
                connection = stack.enter_context(connect(server.tls, server.agent_port))
                connection.sendall(request("POST", "/events/stateless", token, b"", head) + b"{")
        body = stateless(loud, "x" * (BODY_BYTES // 2))
        with server.log_in(loud) as agent:
            answers = [agent.post("/events/stateless", content=body).status_code for _ in range(3)]
        assert 204 in answers
        assert_others_are_served(server, management, quiet)


def test_a_crowd_of_large_batches_is_served_in_turn_or_refused_with_retry_after(
    server: Server, management: httpx.Client, quiet: UUID, query: Callable[..., list[tuple[int, ...]]]
) -> None:
    agents = [server.enroll(management, f"crowd-{number}") for number in range(CROWD)]
    tokens = {agent_id: server.token(agent_id) for agent_id in agents}

    def upload(agent_id: UUID) -> Answer:
        body = stateless(agent_id, *[{"text": "x" * 4_000}] * 200, module="crowd")
        with connect(server.tls, server.agent_port) as connection:
            connection.settimeout(PATIENCE)
            connection.sendall(request("POST", "/events/stateless", tokens[agent_id], body))
            return read_answer(connection)

    with ThreadPoolExecutor(CROWD) as crowd:
        answers = crowd.map(upload, tokens)
        assert_others_are_served(server, management, quiet)
    statuses = []
    for answer in answers:
        statuses.append(answer.status)
        assert answer.status == 204 or (answer.status == 503 and int(answer.headers["retry-after"]) >= 1)
    assert statuses.count(204) > 0
    stored = query("SELECT sum(events) FROM event_batches WHERE streams ? 'crowd'")
    assert stored[0][0] == 200 * statuses.count(204)
    assert server.resident_bytes() < 400 * MIB
