"""Batches: their limits, and the one of each queue that is being sent."""

import secrets
from collections.abc import Sequence

import msgspec

from comms_api.client.spool.file import SpoolFile
from comms_api.protocol import AgentMetadata, MetadataLine

BATCH_BYTES_MAXIMUM = 2**20
BATCH_ITEMS_MAXIMUM = 2_000
HEADER_BYTES = 200
"""The approximate size of a change without its document."""

KEY_BYTES = 16


class OpenBatch(msgspec.Struct, frozen=True):
    """A batch that may have been sent: until the server has answered, it is sent again with the same key and body."""

    key: str
    """The idempotency key: random, since a copy of the spool numbers its batches as this one does."""

    last: int
    """The number of its last item."""

    metadata: msgspec.Raw
    """The first line of its body."""

    sequence: int | None = None
    """The number of a batch of changes."""


class OpenBatches:
    """The open batch of a queue, if there is one, across restarts."""

    def __init__(self, file: SpoolFile, fact: str) -> None:
        self._file = file
        self._fact = fact

    def find(self) -> OpenBatch | None:
        """Return the open batch, or None."""
        fact = self._file.find_fact(self._fact)
        return None if fact is None else msgspec.json.decode(fact, type=OpenBatch)

    def open(self, last: int, metadata: AgentMetadata, sequence: int | None = None) -> OpenBatch:
        """Store a new batch before it is sent, and return it."""
        line = msgspec.Raw(msgspec.json.encode(MetadataLine(metadata)))
        batch = OpenBatch(secrets.token_hex(KEY_BYTES), last, line, sequence)
        self._file.remember(self._fact, batch)
        return batch

    def close(self) -> None:
        """Forget the open batch, within the current transaction if there is one."""
        self._file.forget(self._fact)


def within_bytes(sizes: Sequence[int], maximum: int) -> int:
    """Return how many of the first items fit into `maximum` bytes: at least one, if there is one."""
    total = 0
    for count, size in enumerate(sizes):
        total += size
        if total > maximum:
            return max(count, 1)
    return len(sizes)
