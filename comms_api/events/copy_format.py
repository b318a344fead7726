"""Build the rows of a binary COPY (PostgreSQL manual, COPY, "Binary Format"): the payload's bytes are never decoded."""

import asyncio
import struct
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from uuid import UUID

from comms_api.events.model import EventRun
from comms_api.fairness.slices import Steps

COLUMNS = ("id", "agent_id", "module", "collector", "event")
ROWS_IN_PIECE = 128
PIECE_BYTES = 128 * 1024
STEP_PIECES = 4
STEP_LINES = STEP_PIECES * ROWS_IN_PIECE
_SIGNATURE = b"PGCOPY\n\xff\r\n\0" + struct.pack("!ii", 0, 0)
_TRAILER = struct.pack("!h", -1)
_ROW_START = struct.pack("!hi", len(COLUMNS), 16)
_PAYLOAD_LENGTH = struct.Struct("!i")


def encode_rows(first_id: UUID, agent_id: UUID, runs: Iterable[EventRun]) -> Steps[list[bytes]]:
    """Return one row per event; ids count up from `first_id`, so that they sort as the lines did."""
    rows: list[bytes] = []
    for run in runs:
        shared = _field(agent_id.bytes) + _field(run.module.encode()) + _field(run.collector.encode())
        for start in range(0, len(run.lines), STEP_LINES):
            number = first_id.int + len(rows)
            rows += [
                b"".join(
                    (
                        _ROW_START,
                        (number + offset).to_bytes(16, "big"),
                        shared,
                        _PAYLOAD_LENGTH.pack(len(line)),
                        line,
                    )
                )
                for offset, line in enumerate(run.lines[start : start + STEP_LINES])
            ]
            yield agent_id
    return rows


async def copy_stream(rows: Sequence[bytes]) -> AsyncIterator[bytes]:
    """Yield the stream of one COPY in pieces small enough for malloc's own memory; other work runs in between."""
    yield _SIGNATURE
    start = size = pieces = 0
    for end, row in enumerate(rows):
        if end - start == ROWS_IN_PIECE or size > PIECE_BYTES:
            yield b"".join(rows[start:end])
            start, size, pieces = end, 0, pieces + 1
            if pieces % STEP_PIECES == 0:
                await asyncio.sleep(0)
        size += len(row)
    yield b"".join(rows[start:])
    yield _TRAILER


def read_row(row: bytes) -> tuple[UUID, UUID, bytes]:
    """Return the id, the agent and the payload of an encoded row."""
    fields = list(_fields(row))
    return UUID(bytes=fields[0]), UUID(bytes=fields[1]), fields[4]


def _fields(row: bytes) -> Iterator[bytes]:
    position = 2
    while position < len(row):
        (length,) = _PAYLOAD_LENGTH.unpack_from(row, position)
        position += 4
        yield row[position : position + length]
        position += length


def _field(value: bytes) -> bytes:
    return _PAYLOAD_LENGTH.pack(len(value)) + value
