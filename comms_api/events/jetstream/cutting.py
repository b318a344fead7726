"""Cut a batch that is too large for a message into several batches, between its events."""

from collections.abc import Iterable, Iterator
from itertools import chain, groupby

from comms_api.events.contents import compress, decompress, encode_streams, find_events, write_body
from comms_api.events.model import Event, EventBatch, EventRun
from comms_api.fairness.slices import Steps

EVENTS_MAXIMUM = 2_000
"""A part has at most this many events, since one step collects them."""

HEADER_BYTES = 2 * 1024
"""More than any sub-header line, and than the bytes that a frame adds to incompressible lines."""


def cut(batch: EventBatch, bytes_maximum: int) -> Steps[tuple[list[EventBatch], list[bytes]]]:
    """Return batches with contents of at most `bytes_maximum`, and the lines that are too long for any.

    All events keep their ids.
    """
    body = yield from decompress(batch.content)
    batches, giants = list[EventBatch](), list[bytes]()
    for part in _parts(chain.from_iterable(find_events(batch, body)), bytes_maximum):
        runs = [
            EventRun(module, collector, [bytes(event.event) for event in events])
            for (module, collector), events in groupby(part, key=_stream)
        ]
        content = yield from compress((yield from write_body(runs)))
        if len(content) <= bytes_maximum:
            batches.append(EventBatch(part[0].id, batch.agent_id, len(part), encode_streams(runs), content))
        else:
            giants += runs[0].lines
    return batches, giants


def _parts(events: Iterable[Event], bytes_maximum: int) -> Iterator[list[Event]]:
    """Yield parts that fit even if they cannot be compressed; a longer line is alone in its part."""
    part, size, stream = list[Event](), 0, ("", "")
    for event in events:
        more = len(bytes(event.event)) + 1 + (HEADER_BYTES if not part or _stream(event) != stream else 0)
        if part and (size + more > bytes_maximum or len(part) == EVENTS_MAXIMUM):
            yield part
            part, size, more = [], 0, more + HEADER_BYTES
        part.append(event)
        size, stream = size + more, _stream(event)
    yield part


def _stream(event: Event) -> tuple[str, str]:
    return event.module, event.collector
