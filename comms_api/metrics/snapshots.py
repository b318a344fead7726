"""Memory that the workers of a node share: each writes a snapshot of its metrics, and reads those of the others.

A file for each process, as in prometheus-client's multiprocess mode, would need a folder, cleaning after processes that
have died, and a write for every value. Here, a worker that is replaced overwrites the slot of its predecessor, and the
memory ends with the node.
"""

import time
import zlib
from collections.abc import Iterable
from mmap import mmap
from struct import Struct

import msgspec

from comms_api.errors import Unavailable
from comms_api.metrics.model import Family

SLOT_BYTES = 2**20
"""A worker's share of the memory; the kernel provides only the pages that are used."""

_HEADER = Struct("<dII")
"""The time of writing by the monotonic clock, which all processes share; the size of the content and its checksum."""

_DECODER = msgspec.msgpack.Decoder(list[Family])


class Snapshot(msgspec.Struct, frozen=True):
    """The metrics of a worker, and the time since it wrote them."""

    families: list[Family]
    age_seconds: float


class Snapshots:
    """A slot for each worker; make it before the workers are forked."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._memory = mmap(-1, workers * SLOT_BYTES)

    def write(self, worker: int, families: Iterable[Family]) -> None:
        """Replace the snapshot of a worker; raises `Unavailable` if it is too large."""
        content = msgspec.msgpack.encode(list(families))
        if len(content) > SLOT_BYTES - _HEADER.size:
            raise Unavailable(f"The metrics of a worker take {len(content)} bytes; at most {SLOT_BYTES} can be shared.")
        start = worker * SLOT_BYTES
        self._memory[start : start + _HEADER.size + len(content)] = (
            _HEADER.pack(time.monotonic(), len(content), zlib.crc32(content)) + content
        )

    def read(self) -> dict[int, Snapshot]:
        """Return the complete snapshots by worker; a snapshot that is being written is left out."""
        found: dict[int, Snapshot] = {}
        for worker in range(self._workers):
            start = worker * SLOT_BYTES
            written_at, size, checksum = _HEADER.unpack_from(self._memory, start)
            content = self._memory[start + _HEADER.size : start + _HEADER.size + size]
            if size and zlib.crc32(content) == checksum:
                found[worker] = Snapshot(_DECODER.decode(content), time.monotonic() - written_at)
        return found
