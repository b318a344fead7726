"""Write batches as the wire wants them: lines of JSON, the metadata first."""

from collections.abc import Iterable, Sequence

import msgspec

from comms_api.client.model import Change, Line
from comms_api.protocol import AgentMetadata, MetadataLine, StatefulHeader, StatelessHeader

BATCH_BYTES_MAXIMUM = 2**20
BATCH_ITEMS_MAXIMUM = 2_000
HEADER_BYTES = 200
"""About what a change takes beside its document."""


def stateless_body(metadata: AgentMetadata, lines: Iterable[Line]) -> bytes:
    """Return a stateless batch, with a sub-header wherever the module or the collector changes."""
    parts = [msgspec.json.encode(MetadataLine(metadata))]
    header: tuple[str, str] | None = None
    for line in lines:
        if header != (line.module, line.collector):
            header = (line.module, line.collector)
            parts.append(msgspec.json.encode(StatelessHeader(*header)))
        parts.append(line.event)
    return b"\n".join(parts) + b"\n"


def stateful_body(metadata: AgentMetadata, changes: Iterable[Change]) -> bytes:
    """Return a stateful batch: for each change its header and, unless it deletes, its document."""
    parts = [msgspec.json.encode(MetadataLine(metadata))]
    for change in changes:
        header = StatefulHeader(change.id, change.module, change.operation, change.collector)
        parts.append(msgspec.json.encode(header))
        if change.data is not None:
            parts.append(change.data)
    return b"\n".join(parts) + b"\n"


def within_bytes(sizes: Sequence[int], maximum: int) -> int:
    """Return how many of the first items fit into one batch: at least one, if there is one."""
    total = 0
    for count, size in enumerate(sizes):
        total += size
        if total > maximum:
            return max(count, 1)
    return len(sizes)
