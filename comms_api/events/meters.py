"""The counts and times of stored events, for the metrics."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from comms_api.database.coalescing import Coalescer
from comms_api.meters import Histogram


class StoredEvents(msgspec.Struct):
    """The numbers of stateless batches, events and decoded bytes that this process has stored."""

    batches: int = 0
    events: int = 0
    body_bytes: int = 0
    repeated_batches: int = 0
    """Batches that were stored already, under the same key; the other numbers do not count them."""


class StreamMeter(msgspec.Struct):
    """The messages that this process has published to the event stream."""

    ready: asyncio.Event
    """Set while the stream can be used."""

    seconds: Histogram = msgspec.field(default_factory=Histogram)
    """The time until a quorum has acknowledged each message."""

    failed_batches: int = 0
    """Batches of which a message was not acknowledged."""


class StreamBacklog(msgspec.Struct, frozen=True):
    """The messages in the event stream, for the whole fleet."""

    stored_bytes: int
    bytes_maximum: int
    """The stream refuses further messages when it is full."""

    unread: Mapping[str, int]
    """The number of messages that the relays of each name have not stored yet."""


class SinkMeters(msgspec.Struct, frozen=True):
    """The queues of a sink's writers by name, and the messages of a sink that publishes."""

    writers: Mapping[str, Coalescer[Any, Any]] = {}
    stream: StreamMeter | None = None
    find_backlog: Callable[[], Awaitable[StreamBacklog | None]] | None = None
    """Asks the servers of the stream; returns None if they do not answer in time."""
