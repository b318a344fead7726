"""Encode batches of events as messages of a stream, and decode these.

The payload is the unchanged content of the batch, which `contents` describes. The headers are the other columns of its
row. So a message that is delivered twice is the same row both times.
"""

from collections.abc import Mapping
from uuid import UUID

import msgspec

from comms_api.batches.keys import HASH_BYTES, BatchKey
from comms_api.errors import Malformed
from comms_api.events.contents import STREAMS_BYTES_MAXIMUM
from comms_api.events.model import EventBatch

SUBJECTS = "events.stateless.>"
SUBJECT = "events.stateless.batches"

MESSAGE_ID = "Nats-Msg-Id"
AGENT, FIRST_ID, EVENTS, STREAMS = "Comms-Agent", "Comms-First-Id", "Comms-Events", "Comms-Streams"
KEY = "Comms-Key"
"""The hash and the digest of the idempotency key, in hexadecimal digits."""

HEADERS_BYTES_MAXIMUM = STREAMS_BYTES_MAXIMUM + 512
"""Servers count the headers as a part of the message's size."""

EVENTS_MAXIMUM = 2**31 - 1

_STREAMS = msgspec.json.Decoder(dict[str, list[str]])


class Message(msgspec.Struct, frozen=True):
    """A message to publish."""

    subject: str
    headers: dict[str, str]
    payload: bytes


def content_bytes_maximum(bytes_maximum: int) -> int:
    """Return the size of the largest content for a message of `bytes_maximum` with its headers."""
    return bytes_maximum - HEADERS_BYTES_MAXIMUM


def encode_message(batch: EventBatch) -> Message:
    """Return the message of a batch."""
    headers = {
        # With the count, since a batch that is cut differently must not count as a duplicate.
        MESSAGE_ID: f"{batch.id}/{batch.events}",
        FIRST_ID: str(batch.id),
        AGENT: str(batch.agent_id),
        EVENTS: str(batch.events),
    }
    if batch.streams is not None:
        headers[STREAMS] = batch.streams
    if batch.key is not None:
        headers[KEY] = (batch.key.hash + batch.key.digest).hex()
    return Message(SUBJECT, headers, batch.content)


def decode_message(headers: Mapping[str, str], payload: bytes) -> EventBatch:
    """Decode a message; raises `Malformed` if no node published it."""
    try:
        events, streams = int(headers[EVENTS]), headers.get(STREAMS)
        if streams is not None:
            _STREAMS.decode(streams)
        key = _read_key(headers[KEY]) if KEY in headers else None
        batch = EventBatch(UUID(headers[FIRST_ID]), UUID(headers[AGENT]), events, streams, payload, key)
    except (KeyError, ValueError) as error:
        raise Malformed(f"not a message of comms-api: {error}") from None
    if not 0 < events <= EVENTS_MAXIMUM or "\\u0000" in (streams or ""):
        raise Malformed("not a message of comms-api: its headers cannot be stored")
    return batch


def _read_key(header: str) -> BatchKey:
    key = bytes.fromhex(header)
    if len(key) != 2 * HASH_BYTES:
        raise ValueError(f"{KEY}: expected {4 * HASH_BYTES} digits")
    return BatchKey(key[:HASH_BYTES], key[HASH_BYTES:])
