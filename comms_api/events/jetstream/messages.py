"""Encode runs of events as messages of a stream, and decode these.

The payload is the unchanged lines of one run, separated by line feeds. The headers name the agent, the module, the
collector and the id of the first event; the other ids follow it. So the events of a message that is delivered twice
have the same ids both times.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from urllib.parse import quote, unquote
from uuid import UUID

import msgspec

from comms_api.errors import Malformed
from comms_api.events.model import EventRun

SUBJECT = "events.stateless"
SUBJECTS = f"{SUBJECT}.>"

MESSAGE_ID = "Nats-Msg-Id"
AGENT, MODULE, COLLECTOR, FIRST_ID = "Comms-Agent", "Comms-Module", "Comms-Collector", "Comms-First-Id"

HEADERS_BYTES_MAXIMUM = 2048
"""Enough for the longest module and collector; servers count the headers as a part of the message's size."""

MESSAGE_LINES_MAXIMUM = 16 * 1024
"""Encoding or decoding a message of this many lines takes one or two milliseconds; 64 bytes per line fill it."""

_NO_TOKEN = re.compile(r"[^A-Za-z0-9_-]")


class Message(msgspec.Struct, frozen=True):
    """A message to publish: one run of one agent, or a part of a run."""

    subject: str
    headers: dict[str, str]
    payload: bytes


class Delivered(msgspec.Struct, frozen=True):
    """A decoded message."""

    first_id: UUID
    agent_id: UUID
    run: EventRun


def encode_messages(first_id: UUID, agent_id: UUID, runs: Iterable[EventRun], bytes_maximum: int) -> Iterator[Message]:
    """Yield the messages of a batch, none larger than `bytes_maximum` with its headers.

    No line may be longer than `line_bytes_maximum` allows, and no run may be empty.
    """
    number = first_id.int
    for run in runs:
        for lines in _parts(run.lines, bytes_maximum - HEADERS_BYTES_MAXIMUM):
            yield _encode(UUID(int=number), agent_id, run, lines)
            number += len(lines)


def line_bytes_maximum(bytes_maximum: int) -> int:
    """Return the maximum length of a line in a message of `bytes_maximum`."""
    return bytes_maximum - HEADERS_BYTES_MAXIMUM - 1


def _parts(lines: Sequence[bytes], bytes_maximum: int) -> Iterator[Sequence[bytes]]:
    start = size = 0
    for index, line in enumerate(lines):
        size += len(line) + 1
        if index > start and (size > bytes_maximum or index - start == MESSAGE_LINES_MAXIMUM):
            yield lines[start:index]
            start, size = index, len(line) + 1
    yield lines[start:]


def _encode(first_id: UUID, agent_id: UUID, run: EventRun, lines: Sequence[bytes]) -> Message:
    headers = {
        # With the count, since a batch that is cut differently must not count as a duplicate.
        MESSAGE_ID: f"{first_id}/{len(lines)}",
        FIRST_ID: str(first_id),
        AGENT: str(agent_id),
        MODULE: quote(run.module),
        COLLECTOR: quote(run.collector),
    }
    # A subject allows fewer characters than the name of a module; the header contains the name itself.
    subject = f"{SUBJECT}.{_NO_TOKEN.sub('_', run.module) or '_'}"
    return Message(subject, headers, b"\n".join(lines))


def decode_message(headers: Mapping[str, str], payload: bytes) -> Delivered:
    """Decode a message; raises `Malformed` if no node published it."""
    try:
        run = EventRun(unquote(headers[MODULE]), unquote(headers[COLLECTOR]), payload.split(b"\n"))
        return Delivered(UUID(headers[FIRST_ID]), UUID(headers[AGENT]), run)
    except (KeyError, ValueError) as error:
        raise Malformed(f"not a message of comms-api: {error}") from None
