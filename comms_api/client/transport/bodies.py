"""Write batches in the form of the wire: lines of JSON, the metadata first."""

from collections.abc import Iterable

import msgspec

from comms_api.client.spool.model import Change, Line
from comms_api.protocol import AgentMetadata, MetadataLine, StatefulHeader, StatelessHeader


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
