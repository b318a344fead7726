"""Pack the finished orders of past days into compressed chunks, and delete old commands.

A chunk holds consecutive orders of one command and one day as lines of JSON, compressed with zstd. A chunk never
changes: a day is archived only when no order of that day, or of an earlier day, is open.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from itertools import groupby
from typing import TypeAlias, get_args
from uuid import UUID

import msgspec
import zstandard
from sqlalchemy import ARRAY, Uuid, all_, literal, select, text
from sqlalchemy.dialects.postgresql import insert

from comms_api.database.connection import Connection, Row
from comms_api.database.schema import archived_orders, orders
from comms_api.database.uuid7 import uuid7_floor, uuid7_time
from comms_api.orders.model import FailureOutcome
from comms_api.protocol import OrderStatus

UUID_VERSION = 7
ARCHIVE_LOCK = 0x61726368697665
STEP_BYTES_MAXIMUM = 8 * 2**20
"""The maximum of result bytes in one step; a step ends with the order that exceeds it."""

CHUNK_BYTES_MAXIMUM = 64 * 2**20
"""Every chunk is smaller than this. A chunk with a larger announced size is damaged and is not unpacked."""


class ArchivedOrder(msgspec.Struct, frozen=True, omit_defaults=True):
    """A finished order as a chunk stores it; its other columns are in its command."""

    order_id: UUID
    request_id: UUID
    agent_id: UUID
    agent_groups: list[str]
    attempt: int
    created_at: datetime
    expires_at: datetime
    finished_at: datetime
    status: OrderStatus
    sent_at: datetime | None = None
    result_code: int | None = None
    result_message: str | None = None
    result_data: msgspec.Raw = msgspec.Raw(b"null")
    outcome: FailureOutcome | None = None


_LINES = msgspec.json.Encoder()
_LINE = msgspec.json.Decoder(ArchivedOrder)


def pack(rows: Iterable[ArchivedOrder]) -> bytes:
    """Return a chunk's content."""
    return zstandard.compress(_LINES.encode_lines(list(rows)), level=9)


def unpack(content: bytes) -> list[ArchivedOrder]:
    """Return a chunk's orders, by id."""
    return [_LINE.decode(line) for line in _lines(content)]


_TAKE = text("""
    DELETE FROM finished_orders WHERE order_id IN (
        SELECT order_id FROM (
            SELECT order_id, sum(bytes) OVER (ORDER BY order_id) - bytes AS bytes_before FROM (
                SELECT order_id, coalesce(octet_length(result_message), 0)
                    + coalesce(octet_length(CAST(result_data AS text)), 0) AS bytes
                FROM finished_orders WHERE order_id >= :low AND order_id < :high
                ORDER BY order_id LIMIT :limit
            ) AS oldest
        ) AS fitting WHERE bytes_before < :bytes)
    RETURNING order_id, request_id, agent_id, agent_groups, attempt, created_at, expires_at, finished_at, status,
        sent_at, result_code, result_message, result_data, outcome""")


async def archive_orders(connection: Connection, day: date, limit: int) -> int:
    """Move up to `limit` finished orders of a day into chunks, in this transaction; return how many."""
    low = datetime.combine(day, time.min, UTC)
    bounds = {"low": uuid7_floor(low), "high": uuid7_floor(low + timedelta(days=1))}
    rows = await connection.execute(_TAKE, bounds | {"limit": limit, "bytes": STEP_BYTES_MAXIMUM})
    # One node archives, one step at a time, so this never occupies more than one of the loop's threads.
    for chunk in await asyncio.to_thread(_chunks, rows):
        await connection.execute(insert(archived_orders).values(chunk))
    return len(rows)


def _chunks(rows: Iterable[Row]) -> list[dict[str, object]]:
    archived = [ArchivedOrder(**{name: value for name, value in row.items() if value is not None}) for row in rows]
    archived.sort(key=lambda order: (order.request_id, order.order_id))
    by_command = groupby(archived, key=lambda order: order.request_id)
    return [_chunk(request_id, list(command_orders)) for request_id, command_orders in by_command]


def _chunk(request_id: UUID, packed: list[ArchivedOrder]) -> dict[str, object]:
    statuses = [order.status for order in packed]
    outcomes = [order.outcome for order in packed]
    return {
        "chunk_id": packed[0].order_id,
        "last_order_id": packed[-1].order_id,
        "request_id": request_id,
        "success": statuses.count("success"),
        "failure": statuses.count("failure"),
        "cancelled": statuses.count("cancelled"),
        **{outcome: outcomes.count(outcome) for outcome in get_args(FailureOutcome)},
        "content": pack(packed),
        "agents": sorted({agent_hash(order.agent_id) for order in packed}),
    }


def agent_hash(agent_id: UUID) -> int:
    """Return the number of a recipient in the index of the archive: 14 random bits of its id.

    With more bits, the index would have an entry for each agent and day, and be larger than the orders themselves. A
    chunk of 5,000 agents has a quarter of all numbers, so a quarter of such chunks are unpacked without need.
    """
    return int.from_bytes(agent_id.bytes[-2:]) >> 2


def unpack_for(content: bytes, agent_id: UUID | None, *, is_newest_first: bool) -> Iterator[ArchivedOrder]:
    """Yield a chunk's orders by id, all or those for one recipient; the lines of others are not decoded."""
    name = b"" if agent_id is None else str(agent_id).encode()
    lines = _lines(content)
    for line in reversed(lines) if is_newest_first else lines:
        if name in line and (order := _LINE.decode(line)).agent_id == (agent_id or order.agent_id):
            yield order


def _lines(content: bytes) -> list[bytes]:
    if zstandard.frame_content_size(content) > CHUNK_BYTES_MAXIMUM:
        raise ValueError(f"an archived chunk is larger than {CHUNK_BYTES_MAXIMUM} bytes")
    return zstandard.decompress(content).splitlines()


Unpack: TypeAlias = Callable[[bytes], Awaitable[list[ArchivedOrder]]]
"""Does the same as `unpack` without blocking the event loop."""


async def find_archived(connection: Connection, order_id: UUID, unpack_aside: Unpack) -> ArchivedOrder | None:
    """Return an archived order, or None."""
    if order_id.version != UUID_VERSION:
        return None
    day = datetime.combine(uuid7_time(order_id).date(), time.min, UTC)
    statement = select(archived_orders.c.content).where(
        archived_orders.c.chunk_id >= uuid7_floor(day),
        archived_orders.c.chunk_id <= order_id,
        archived_orders.c.last_order_id >= order_id,
    )
    for content in await connection.scalars(statement):
        for order in await unpack_aside(content):
            if order.order_id == order_id:
                return order
    return None


async def find_chunk(connection: Connection, request_id: UUID, read: Collection[UUID]) -> tuple[UUID, bytes] | None:
    """Return the id and the content of a command's first chunk that is not in `read`, or None."""
    statement = (
        select(archived_orders.c.chunk_id, archived_orders.c.content)
        .where(archived_orders.c.request_id == request_id)
        .where(archived_orders.c.chunk_id != all_(literal(list(read), ARRAY(Uuid))))
        .order_by(archived_orders.c.chunk_id)
        .limit(1)
    )
    row = await connection.first(statement)
    return (row.chunk_id, row.content) if row else None


async def find_oldest_order(connection: Connection) -> UUID | None:
    """Return the id of the oldest open order, or None when none is open."""
    oldest: UUID | None = await connection.scalar(select(orders.c.order_id).order_by(orders.c.order_id).limit(1))
    return oldest


_DELETE_COMMANDS = text("""
    DELETE FROM commands WHERE request_id IN (
        -- One day later than the partitions of their orders, because a partition contains whole days.
        SELECT request_id FROM commands WHERE expires_at < now() - make_interval(days => :days + 1)
            AND NOT EXISTS (SELECT FROM orders WHERE orders.request_id = commands.request_id)
        ORDER BY expires_at LIMIT :limit)""")


async def delete_commands(connection: Connection, older_than_days: int, limit: int) -> int:
    """Delete up to `limit` commands whose orders have been dropped by age; return how many."""
    return await connection.change(_DELETE_COMMANDS, {"days": older_than_days, "limit": limit})
