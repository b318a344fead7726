"""How runs of events travel in messages of a stream, and back.

A message holds the lines of one run as they are, one below the other. Whose they are and what they are is in its
headers; ids count up from the one that a header tells, so a message that is delivered twice has the same ids twice.
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
"""Of the longest module and collector there can be; servers count headers as a part of what a message may have."""

MESSAGE_LINES_MAXIMUM = 16 * 1024
"""Enough for lines of 64 bytes: a message takes a millisecond or two to make and to read."""

_NO_TOKEN = re.compile(r"[^A-Za-z0-9_-]")


class Message(msgspec.Struct, frozen=True):
    """What is published: one run of one agent, or a part of it."""

    subject: str
    headers: dict[str, str]
    payload: bytes


class Delivered(msgspec.Struct, frozen=True):
    """What a message says once it is read."""

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
        # With the count: cut differently, the same batch must not be taken for what is there already.
        MESSAGE_ID: f"{first_id}/{len(lines)}",
        FIRST_ID: str(first_id),
        AGENT: str(agent_id),
        MODULE: quote(run.module),
        COLLECTOR: quote(run.collector),
    }
    return Message(f"{SUBJECT}.{_token(run.module)}", headers, b"\n".join(lines))


def _token(module: str) -> str:
    """Return a module's name as a subject can have it; the header has it as it is."""
    return _NO_TOKEN.sub("_", module) or "_"


def decode_message(headers: Mapping[str, str], payload: bytes) -> Delivered:
    """Read a message; raises `Malformed` for one that no node published."""
    try:
        run = EventRun(unquote(headers[MODULE]), unquote(headers[COLLECTOR]), payload.split(b"\n"))
        return Delivered(UUID(headers[FIRST_ID]), UUID(headers[AGENT]), run)
    except (KeyError, ValueError) as error:
        raise Malformed(f"not a message of comms-api: {error}") from None
