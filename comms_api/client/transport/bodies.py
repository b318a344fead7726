"""Write batches in the form of the wire: lines of JSON, the metadata first.

The same items give the same bytes each time: the server compares the bodies that it gets under one idempotency key.
"""

from collections.abc import Iterable

import msgspec

from comms_api.client.spool.model import Change, Line
from comms_api.protocol import StatefulHeader, StatelessHeader


def stateless_body(metadata: bytes, lines: Iterable[Line]) -> bytes:
    """Return a stateless batch, with a sub-header wherever the module or the collector changes."""
    parts = [metadata]
    header: tuple[str, str] | None = None
    for line in lines:
        if header != (line.module, line.collector):
            header = (line.module, line.collector)
            parts.append(msgspec.json.encode(StatelessHeader(*header)))
        parts.append(line.event)
    return b"\n".join(parts) + b"\n"


def stateful_body(metadata: bytes, changes: Iterable[Change]) -> bytes:
    """Return a stateful batch: for each change its header and, unless it deletes, its document."""
    parts = [metadata]
    for change in changes:
        header = StatefulHeader(change.id, change.module, change.operation, change.collector)
        parts.append(msgspec.json.encode(header))
        if change.data is not None:
            parts.append(change.data)
    return b"\n".join(parts) + b"\n"
