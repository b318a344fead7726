"""Answers are compressed for clients that accept it, and only where nothing is lost by it."""

import gzip
import json
from typing import Any
from uuid import UUID

import httpx
import pytest
import zstandard
from support.batches import command
from support.connections import LAST, exchange, get, served
from support.server import Server

from comms_api.http1.content_encoding import SMALLEST_BYTES, choose_encoding
from comms_api.http1.endpoint import AUTHENTICATED, AsgiApp

JSON = {"headers": [(b"Content-Type", b"application/json"), (b"content-length", b"5000")]}


@pytest.mark.parametrize(
    ("offer", "encoding"),
    [
        ("gzip, deflate, br, zstd", "zstd"),
        ("gzip", "gzip"),
        ("zstd;q=0.5, gzip;q=0.8", "gzip"),
        ("zstd;q=0, *", "gzip"),
        ("*", "zstd"),
        ("GZIP ; Q=1.0", "gzip"),
        ("gzip;q=0", None),
        ("gzip;q=much", None),
        ("identity", None),
        ("br", None),
        ("", None),
        ("a," * 16 + "gzip", None),
    ],
)
def test_the_client_chooses_the_encoding(offer: str, encoding: str | None) -> None:
    assert choose_encoding([(b"accept-encoding", offer.encode())], JSON, 5_000) == encoding


@pytest.mark.parametrize(
    ("headers", "length"),
    [
        ([(b"content-type", b"application/json")], SMALLEST_BYTES - 1),
        ([(b"content-type", b"application/octet-stream")], 5_000),
        ([(b"content-type", b"text/plain"), (b"ETag", b'"1"')], 5_000),
        ([(b"content-type", b"text/plain"), (b"content-encoding", b"gzip")], 5_000),
        ([(b"content-type", b"text/plain"), (b"content-length", b"9000")], None),
        ([], 5_000),
    ],
)
def test_some_answers_are_never_compressed(headers: list[tuple[bytes, bytes]], length: int | None) -> None:
    assert choose_encoding([(b"accept-encoding", b"gzip")], {"headers": headers}, length) is None


@pytest.fixture(scope="module")
def agents(server: Server, management: httpx.Client) -> list[UUID]:
    return [server.enroll(management, f"encoding-{number}") for number in range(20)]


def decoded(encoding: str, raw: bytes) -> bytes:
    return gzip.decompress(raw) if encoding == "gzip" else zstandard.ZstdDecompressor().decompressobj().decompress(raw)


def fetch(client: httpx.Client, path: str, encoding: str) -> tuple[httpx.Response, bytes]:
    """Return an answer and its body as sent."""
    with client.stream("GET", path, headers={"Accept-Encoding": encoding}) as answer:
        return answer, b"".join(answer.iter_raw())


@pytest.mark.usefixtures("agents")
@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_pages_and_exports_are_compressed(management: httpx.Client, encoding: str) -> None:
    for path in ("/agents", "/audit/export?until=2000-01-01T00:00:00Z", "/audit/export"):
        _, plain = fetch(management, path, "identity")
        answer, raw = fetch(management, path, encoding)
        assert answer.status_code == 200
        assert decoded(encoding, raw) == plain
        assert (answer.headers["content-encoding"], answer.headers["vary"]) == (encoding, "accept-encoding")
        assert len(raw) < max(len(plain) / 2, 100)


def test_the_orders_of_an_agent_are_compressed(server: Server, management: httpx.Client, agents: list[UUID]) -> None:
    order = command(agents[0]) | {"action": {"name": "show", "args": {"text": "a" * 5_000}, "version": "6.0.0"}}
    assert management.post("/commands", json=order).status_code == 201
    with server.log_in(agents[0]) as agent:
        answer, raw = fetch(agent, "/commands", "gzip")
    assert int(answer.headers["content-length"]) == len(raw) < 1_000
    assert json.loads(gzip.decompress(raw))["commands"]


LARGE = b"0123456789" * 100_000


def app_of(*, is_authenticated: bool) -> AsgiApp:
    async def app(scope: Any, _receive: Any, send: Any) -> None:
        scope["state"][AUTHENTICATED] = is_authenticated
        headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(LARGE))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": LARGE})

    return app


@pytest.mark.anyio
async def test_a_large_answer_is_compressed_and_the_connection_goes_on() -> None:
    async with served(app_of(is_authenticated=True)) as (_, port):
        received = await exchange(port, get("/", "Accept-Encoding: gzip") + get("/", "Accept-Encoding: zstd", LAST))
    _, first, second = received.split(b"HTTP/1.1 200 OK")
    assert gzip.decompress(first.partition(b"\r\n\r\n")[2]) == LARGE
    assert decoded("zstd", second.partition(b"\r\n\r\n")[2]) == LARGE


@pytest.mark.anyio
async def test_an_answer_without_a_token_is_not_compressed() -> None:
    async with served(app_of(is_authenticated=False)) as (_, port):
        received = await exchange(port, get("/", "Accept-Encoding: gzip", LAST))
    assert received.endswith(LARGE)
