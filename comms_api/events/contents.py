"""Encode and decode the contents of event batches.

A content is a zstd body in the format of a request: a first line that is ignored, sub-headers, and the event lines,
which are all valid. So the code that reads requests numbers the events, both times in the same way.
"""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from uuid import UUID

import msgspec
import zstandard

from comms_api.batches.framing import find_stateless_header, windows
from comms_api.compression import decoder_of, decompress_frame
from comms_api.database.uuid7 import uuid7_time
from comms_api.events.model import Event, EventBatch, EventRun, StatelessBatch
from comms_api.fairness.slices import Steps, exhaust
from comms_api.protocol import StatelessHeader

LEVEL = 1
STEP_BYTES = 128 * 1024
"""Compressing this many bytes takes about half a millisecond."""

STEP_LINES = 512

AT_ONCE_BYTES_MAXIMUM = 64 * 2**20
"""A larger frame is decompressed in steps, which use less memory."""

STREAMS_BYTES_MAXIMUM = 2 * 1024
RUNS_MAXIMUM = 4 * 1024
"""Only the content has the names of more modules and collectors, or of a batch with more runs."""

_COMPRESSOR = zstandard.ZstdCompressor(level=LEVEL)


def compress(body: bytes | memoryview) -> Steps[bytes]:
    """Return a zstd frame."""
    if len(body) <= STEP_BYTES:
        return _COMPRESSOR.compress(body)
    frame = zstandard.ZstdCompressor(level=LEVEL).compressobj(size=len(body))
    pieces = []
    for start in range(0, len(body), STEP_BYTES):
        pieces.append(frame.compress(body[start : start + STEP_BYTES]))
        yield None
    pieces.append(frame.flush())
    return b"".join(pieces)


def decompress(content: bytes) -> Steps[bytes]:
    """Return the body in a content; raises `Malformed`."""
    decoder, pieces = decoder_of("zstd", content), []
    while not decoder.is_done:
        pieces.append(decoder.decode_piece())
        yield None
    return b"".join(pieces)


def decompress_at_once(content: bytes) -> bytes:
    """Return the body in a content, on a thread; raises `Malformed`."""
    whole = decompress_frame(content, AT_ONCE_BYTES_MAXIMUM)
    return exhaust(decompress(content)) if whole is None else whole


def write_body(runs: Iterable[EventRun]) -> Steps[bytes]:
    """Return the body of these events, whose first line is empty."""
    pieces = []
    for run in runs:
        pieces.append(b"\n" + msgspec.json.encode(StatelessHeader(run.module, run.collector)))
        for start in range(0, len(run.lines), STEP_LINES):
            pieces.append(b"\n".join(chain([b""], run.lines[start : start + STEP_LINES])))
            yield None
    return b"".join(pieces)


def encode_content(batch: StatelessBatch, body: bytes, zstd: bytes | None) -> Steps[bytes]:
    """Return the content of a batch that was read from `body`; `zstd` is the compressed body, if it came as zstd.

    A body with invalid lines is written again, without them. From another body that must be compressed, only the first
    line is left out.
    """
    if batch.quarantined:
        return (yield from compress((yield from write_body(batch.runs))))
    if zstd is not None and len(zstd) < len(body):
        return zstd
    return (yield from compress(memoryview(body)[body.index(b"\n") :]))


def find_events(batch: EventBatch, body: bytes, contains: bytes = b"") -> Iterator[list[Event]]:
    """Yield the events in the body of a batch that contain these bytes, some at a time."""
    number, module, collector = batch.id.int, "", ""
    for window in windows(body, sys.maxsize):
        events = []
        for line in filter(None, window.lines):
            if (header := find_stateless_header(line)) is not None:
                module, collector = header.module, header.collector
                continue
            if contains in line:
                id_ = UUID(int=number)
                events.append(Event(id_, batch.agent_id, module, collector, uuid7_time(id_), msgspec.Raw(line)))
            number += 1
        yield events


def encode_streams(runs: Sequence[EventRun]) -> str | None:
    """Return the collectors of each module as JSON in ASCII; None if these are too many."""
    if len(runs) > RUNS_MAXIMUM:
        return None
    collectors: dict[str, dict[str, None]] = {}
    for run in runs:
        collectors.setdefault(run.module, {})[run.collector] = None
    names = {module: list(found) for module, found in collectors.items()}
    streams = msgspec.json.encode(names).decode()
    if not streams.isascii():
        streams = json.dumps(names)  # seven times slower
    return streams if len(streams) <= STREAMS_BYTES_MAXIMUM else None
