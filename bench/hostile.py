"""Build the requests of hostile clients. The tests in `tests/hostile` and the bench's attacks share these builders.

Sizes are parameters: the bench uses the sizes of known attacks; tests may use smaller ones.
"""

import gzip
from collections.abc import Iterable
from uuid import UUID

import msgspec
import zstandard

EMPTY_ZSTD = zstandard.compress(b"")
SKIPPED_ZSTD = b"\x50\x2a\x4d\x18\0\0\0\0"
"""A frame that a decoder skips, without content."""

EMPTY_GZIP = gzip.compress(b"", mtime=0)


class Shot(msgspec.Struct, frozen=True):
    """The bytes of one request: a head, then `fill` repeatedly. A large request needs little memory before sending."""

    head: bytes
    fill: bytes = b""
    times: int = 0

    def parts(self) -> Iterable[bytes]:
        """Return the bytes in parts of moderate size."""
        yield self.head
        at_once = max(1, 65_536 // max(1, len(self.fill)))
        part = self.fill * min(at_once, self.times)
        for _ in range(self.times // at_once):
            yield part
        if self.times % at_once:
            yield self.fill * (self.times % at_once)

    def size(self) -> int:
        """Return the number of bytes."""
        return len(self.head) + len(self.fill) * self.times


def shot(  # noqa: PLR0913 - the parts of a request
    method: str,
    path: str,
    token: str = "",
    body: bytes = b"",
    *,
    fill: bytes = b"",
    times: int = 0,
    encoding: str = "",
    announced: int | None = None,
) -> Shot:
    """Return a request whose body is `body` and then `fill` repeated; `announced` may be a wrong length."""
    length = len(body) + len(fill) * times if announced is None else announced
    lines = [f"{method} {path} HTTP/1.1", "Host: bench", "Connection: close"]
    if method != "GET":
        lines.append(f"Content-Length: {length}")
    if encoding:
        lines.append(f"Content-Encoding: {encoding}")
    if token:
        lines.append(f"Authorization: Bearer {token}")
    return Shot("\r\n".join(lines).encode() + b"\r\n\r\n" + body, fill, times)


def bad_lines(agent_id: UUID | str, count: int) -> bytes:
    """Return a gzip-compressed batch of lines that are neither headers nor data."""
    return gzip.compress(metadata(agent_id) + b"\n" + b"x\n" * count)


def deep_updates(agent_id: UUID | str, count: int, depth: int) -> bytes:
    """Return a zstd-compressed stateful batch of deeply nested updates."""
    data = b'{"a":' * depth + b"1" + b"}" * depth
    updates = b"".join(b"%s\n%s\n" % (_update_header(f"deep-{number}"), data) for number in range(count))
    return zstandard.compress(metadata(agent_id) + b"\n" + updates)


def small_updates(agent_id: UUID | str, ids: Iterable[str]) -> bytes:
    """Return a stateful batch that updates one member of each of these states."""
    updates = b"".join(b'%s\n{"n":2}\n' % _update_header(id_) for id_ in ids)
    return metadata(agent_id) + b"\n" + updates


def exploding_schema(definitions: int) -> bytes:
    """Return an action whose JSON Schema doubles with each definition: each refers twice to the next."""
    defs: dict[str, object] = {
        f"d{number}": {"allOf": [{"$ref": f"#/$defs/d{number + 1}"}] * 2} for number in range(definitions - 1)
    }
    defs[f"d{definitions - 1}"] = {"type": "object"}
    return msgspec.json.encode({"schema": {"$ref": "#/$defs/d0", "$defs": defs}})


def metadata(agent_id: UUID | str) -> bytes:
    """Return the first line of an agent's batch."""
    return msgspec.json.encode({"agent": {"id": str(agent_id), "name": "bench"}})


def _update_header(id_: str) -> bytes:
    return msgspec.json.encode({"id": id_, "module": "fim", "collector": "file", "operation": "update"})
