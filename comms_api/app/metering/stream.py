"""The metrics of the event stream, which all nodes share."""

from collections.abc import Sequence

from comms_api.events.meters import SinkMeters
from comms_api.metrics.fleet import Source
from comms_api.metrics.model import Family, by, single


def stream_sources(meters: SinkMeters) -> Sequence[Source]:
    """Return the source of the stream's backlog, if events go to a stream."""
    if (find_backlog := meters.find_backlog) is None:
        return []

    async def read() -> Sequence[Family]:
        backlog = await find_backlog()
        if backlog is None:
            return []
        stored, unread = backlog.stored_bytes, {name: float(count) for name, count in backlog.unread.items()}
        return [
            single("gauge", "jetstream_stored_bytes", "Bytes that the stream stores.", stored),
            single("gauge", "jetstream_limit_bytes", "Bytes that the stream may store.", backlog.bytes_maximum),
            by("consumer", "gauge", "jetstream_unread_messages", "Messages that relays have not stored yet.", unread),
        ]

    return [read]
