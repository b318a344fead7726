"""Requests of agents and operators, encoded before a measurement starts."""

from collections.abc import Callable, Sequence
from uuid import UUID

import msgspec
import zstandard

from bench.event_texts import EventTexts

HEALTH_CHECK = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n"


def post(path: str, token: str, body: bytes, *headers: str) -> bytes:
    """Return a POST request; without a token it has no Authorization header."""
    return _request("POST", path, token, body, *headers)


def put(path: str, token: str, body: bytes) -> bytes:
    """Return a PUT request."""
    return _request("PUT", path, token, body)


def _request(method: str, path: str, token: str, body: bytes, *headers: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: bench", f"Content-Length: {len(body)}", *headers]
    if token:
        lines.append(f"Authorization: Bearer {token}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def get(path: str, token: str) -> bytes:
    """Return a GET request."""
    return f"GET {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {token}\r\n\r\n".encode()


def poll(token: str, wait_seconds: int | None = None) -> bytes:
    """Return a long poll."""
    return get("/commands" if wait_seconds is None else f"/commands?wait={wait_seconds}", token)


def event_lines(count: int, seed: int = 0) -> list[bytes]:
    """Return events of 400 bytes on average, which differ with the seed."""
    return EventTexts(seed).lines(count)


def compression(count: int = 100) -> float:
    """Return how many times zstd at level 1 compresses the events of a batch, on average."""
    batches = [b"\n".join(event_lines(count, seed)) for seed in range(20)]
    compressor = zstandard.ZstdCompressor(1)
    return sum(map(len, batches)) / sum(len(compressor.compress(batch)) for batch in batches)


def _metadata(agent_id: UUID) -> bytes:
    return msgspec.json.encode({"agent": {"id": str(agent_id), "name": "bench"}})


def stateless(agent_id: UUID, lines: Sequence[bytes]) -> bytes:
    """Return a stateless batch."""
    return b"\n".join((_metadata(agent_id), b'{"module":"logcollector","collector":"file"}', *lines)) + b"\n"


def event_batches(agents: Sequence[UUID], token: Callable[[UUID], str], count: int) -> list[bytes]:
    """Return a request with `count` events for each agent; the agents' events differ."""
    return [
        post("/events/stateless", token(agent), stateless(agent, event_lines(count, seed)))
        for seed, agent in enumerate(agents)
    ]


def stateful(agent_id: UUID, documents: Sequence[tuple[str, bytes]]) -> bytes:
    """Return a stateful batch that updates each id to its document."""
    header = '{{"id":"{}","module":"fim","collector":"file","operation":"update"}}'
    lines = [line for id_, document in documents for line in (header.format(id_).encode(), document)]
    return b"\n".join((_metadata(agent_id), *lines)) + b"\n"


def submit(token: str, target: str, kind: str) -> bytes:
    """Return a request that submits one command."""
    command = {
        "source": "Engine",
        "target": {"id": target, "type": kind},
        "action": {"name": "restart", "args": {}},
        "timeout": 600,
    }
    return post("/commands", token, msgspec.json.encode(command))
