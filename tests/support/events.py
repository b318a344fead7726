"""Write and read stored batches of events without a server."""

import json
import os
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any
from uuid import UUID

from comms_api.events.contents import compress, decompress, encode_streams, find_events, write_body
from comms_api.events.model import Event, EventBatch, EventRun
from comms_api.fairness.slices import exhaust

COLUMNS = "id, agent_id, events, streams::text, content"
_INSERT = f"INSERT INTO event_batches ({COLUMNS.replace('::text', '')}) VALUES ($1, $2, $3, $4, $5)"


def batch_of(id_: UUID, agent_id: UUID, lines: Sequence[bytes], module: str = "m", collector: str = "c") -> EventBatch:
    """Return a batch with one run of events."""
    runs = [EventRun(module, collector, list(lines))]
    return EventBatch(id_, agent_id, len(lines), encode_streams(runs), exhaust(compress(exhaust(write_body(runs)))))


def store_batch(query: Callable[..., object], batch: EventBatch) -> None:
    """Store a batch by `query`, which runs one statement."""
    query(_INSERT, batch.id, batch.agent_id, batch.events, batch.streams, batch.content)


def incompressible(size: int) -> bytes:
    """Return an event that takes at least `size` bytes even when it is compressed."""
    return b'{"x":"%s"}' % os.urandom(size).hex().encode()


def events_of(batch: EventBatch) -> list[Event]:
    """Return the events of a batch."""
    found = list(chain.from_iterable(find_events(batch, exhaust(decompress(batch.content)))))
    assert len(found) == batch.events
    return found


def stored_events(query: Callable[..., list[Any]], agent_id: UUID | None = None) -> list[Event]:
    """Return the stored events of an agent, or all, oldest first."""
    rows = query(f"SELECT {COLUMNS} FROM event_batches WHERE $1::uuid IS NULL OR agent_id = $1 ORDER BY id", agent_id)
    return [event for row in rows for event in events_of(EventBatch(*row))]


def stored_lines(query: Callable[..., list[Any]], agent_id: UUID | None = None, module: str | None = None) -> list[str]:
    """Return the lines of the stored events of an agent and module, oldest first."""
    events = stored_events(query, agent_id)
    return [bytes(event.event).decode() for event in events if module in (None, event.module)]


def stored_texts(query: Callable[..., list[Any]], agent_id: UUID | None = None) -> list[str]:
    """Return the texts of the stored events that agents read from log files, oldest first."""
    return [json.loads(line)["event"]["original"] for line in stored_lines(query, agent_id)]
