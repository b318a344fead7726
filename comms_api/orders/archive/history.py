"""Read one agent's archived orders; each page unpacks a bounded number of chunks."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import ARRAY, Integer, literal, select

from comms_api.database.connection import Connection, Engine
from comms_api.database.pages import PAGE_BYTES_MAXIMUM, Page, created_between
from comms_api.database.schema import archived_orders, commands
from comms_api.database.uuid7 import uuid7_floor
from comms_api.orders.archive.chunks import Unpack, agent_hash
from comms_api.orders.model import OrderFilter, StoredOrder
from comms_api.orders.queries import COMMAND_COLUMNS, command_conditions, stored_order

CHUNKS_MAXIMUM = 200
"""The most chunks that one page unpacks."""


async def list_archived(
    engine: Engine, order_filter: OrderFilter, after: UUID | None, limit: int, unpack_aside: Unpack
) -> Page[StoredOrder]:
    """Return archived orders of the filter's agent, starting after `after`; `unpack_aside` selects the agent's.

    No connection is held while a chunk is unpacked.
    """
    async with engine.connect() as connection:
        chunks = await _list_chunks(connection, order_filter, after)
    found: list[StoredOrder] = []
    size = 0
    for number, chunk_id in enumerate(chunks):
        # Later chunks have only later orders.
        complete = [order for order in found if order.order_id < chunk_id]
        is_full = len(complete) >= limit or (complete and size >= PAGE_BYTES_MAXIMUM)
        if is_full or number == CHUNKS_MAXIMUM:
            return Page(complete, str(UUID(int=chunk_id.int - 1)))
        async with engine.connect() as connection:
            chunk = await _find_chunk(connection, chunk_id)
        if chunk is None:
            continue
        for archived in await unpack_aside(chunk.content):
            order = stored_order(archived, chunk)
            if (after is None or order.order_id > after) and _matches(order, order_filter):
                found.append(order)
                size += _json_bytes(order)
    return Page(sorted(found, key=lambda order: order.order_id), None)


async def _list_chunks(connection: Connection, order_filter: OrderFilter, after: UUID | None) -> Sequence[UUID]:
    """Return the ids of the first chunks with orders of the agent, by id, one more than a page may unpack."""
    table = archived_orders.c
    conditions: list[Any] = list(command_conditions(order_filter))
    if order_filter.agent_id is not None:
        conditions.append(table.agents.op("@>")(literal([agent_hash(order_filter.agent_id)], ARRAY(Integer))))
    if after is not None:
        conditions.append(table.last_order_id > after)
    if order_filter.request_id is not None:
        conditions.append(table.request_id == order_filter.request_id)
    conditions += created_between(table.last_order_id, order_filter.since, None)
    conditions += created_between(table.chunk_id, None, order_filter.until)
    # OFFSET keeps the planner from reading all chunks in the order of their ids.
    matching = (
        select(table.chunk_id)
        .join(commands, commands.c.request_id == table.request_id)
        .where(*conditions)
        .offset(0)
        .subquery()
    )
    return await connection.scalars(select(matching.c.chunk_id).order_by(matching.c.chunk_id).limit(CHUNKS_MAXIMUM + 1))


async def _find_chunk(connection: Connection, chunk_id: UUID) -> Any:
    """Return a chunk's content with the columns of its command, or None."""
    return await connection.first(
        select(archived_orders.c.content, *COMMAND_COLUMNS)
        .join(commands, commands.c.request_id == archived_orders.c.request_id)
        .where(archived_orders.c.chunk_id == chunk_id)
    )


def _matches(order: StoredOrder, order_filter: OrderFilter) -> bool:
    """Return whether an order matches those fields of a filter that are not on its command."""
    outcome = order_filter.outcome
    return (
        order_filter.status in {None, order.status}
        and order_filter.code in {None, order.result.code}
        and (outcome in {None, order.outcome} or (outcome == "expired" and (order.outcome or "").startswith("expired")))
        and (order_filter.since is None or order.order_id >= uuid7_floor(order_filter.since))
        and (order_filter.until is None or order.order_id < uuid7_floor(order_filter.until))
    )


def _json_bytes(order: StoredOrder) -> int:
    return len(msgspec.json.encode(order))


def merge(archived: Page[StoredOrder], others: Page[StoredOrder], limit: int) -> Page[StoredOrder]:
    """Return the first orders of two pages, each once: at most `limit` and about `PAGE_BYTES_MAXIMUM`."""
    end = min((UUID(page.next) for page in (archived, others) if page.next is not None), default=None)
    by_id = {order.order_id: order for page in (archived, others) for order in page.items}
    taken: list[StoredOrder] = []
    size = 0
    for order_id in sorted(by_id):
        if end is not None and order_id > end:
            break
        size += _json_bytes(by_id[order_id])
        if len(taken) == limit or (taken and size > PAGE_BYTES_MAXIMUM):
            end = taken[-1].order_id
            break
        taken.append(by_id[order_id])
    return Page(taken, None if end is None else str(end))
