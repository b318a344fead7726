"""Read the archived orders of an agent or a command; each page unpacks a bounded number of chunks."""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import ARRAY, Integer, literal, or_, select

from comms_api.database.connection import Connection, Engine
from comms_api.database.pages import PAGE_BYTES_MAXIMUM, Page, PageRequest
from comms_api.database.schema import archived_orders, commands
from comms_api.orders.archive.chunks import ArchivedOrder, Unpack, agent_hash, unpack_for
from comms_api.orders.model import OrderFilter, StoredOrder
from comms_api.orders.queries import COMMAND_COLUMNS, command_conditions, outcome_of, stored_order

CHUNKS_MAXIMUM = 100
"""A page unpacks at most this many chunks to find an agent's orders."""

COMMAND_CHUNKS_MAXIMUM = 20
"""A page unpacks at most this many chunks when it reads all of their orders."""


async def list_archived(
    engine: Engine, order_filter: OrderFilter, requested: PageRequest, end: UUID | None, unpack_aside: Unpack
) -> Page[StoredOrder]:
    """Return archived orders of the filter's agent or command; `unpack_aside` does the same as `read_chunk`.

    Chunks whose orders all follow the order `end` are left out. No connection is held while a chunk is unpacked.
    """
    chunks_maximum = COMMAND_CHUNKS_MAXIMUM if order_filter.agent_id is None else CHUNKS_MAXIMUM
    async with engine.connect() as connection:
        chunks = await _list_chunks(connection, order_filter, requested, end, chunks_maximum + 1)
    found: list[StoredOrder] = []
    size = 0
    for number, (chunk_id, edge) in enumerate(chunks):
        # The orders of this chunk and of later ones follow the edge, or are the edge.
        complete = [order for order in found if requested.is_before(order.order_id, edge)]
        is_full = len(complete) >= requested.limit or (complete and size >= PAGE_BYTES_MAXIMUM)
        if is_full or number == chunks_maximum:
            return Page(complete, str(UUID(int=edge.int + (1 if requested.is_newest_first else -1))))
        async with engine.connect() as connection:
            chunk = await _find_chunk(connection, chunk_id)
        if chunk is None:
            continue
        for archived in await unpack_aside(chunk.content):
            found.append(stored_order(archived, chunk))
            size += _json_bytes(found[-1])
    return Page(_sorted(found, requested), None)


def read_chunk(content: bytes, order_filter: OrderFilter, requested: PageRequest) -> list[ArchivedOrder]:
    """Return the first orders of a chunk that match, one more than a page holds, in the requested order."""
    orders = unpack_for(content, order_filter.agent_id, is_newest_first=requested.is_newest_first)
    matching = (order for order in orders if requested.includes(order.order_id) and _matches(order, order_filter))
    return list(islice(matching, requested.limit + 1))


async def _list_chunks(
    connection: Connection, order_filter: OrderFilter, requested: PageRequest, end: UUID | None, limit: int
) -> Sequence[Any]:
    """Return the first chunks with orders of the agent or the command.

    Each is its id and its edge, the first of its orders in the requested order; the chunks are sorted by their edges.
    """
    table = archived_orders.c
    edges = (table.chunk_id, table.last_order_id)
    edge, other_edge = reversed(edges) if requested.is_newest_first else edges
    conditions: list[Any] = list(command_conditions(order_filter))
    if order_filter.agent_id is not None:
        has_agent = table.agents.op("@>")(literal([agent_hash(order_filter.agent_id)], ARRAY(Integer)))
        is_not_indexed = table.agents == literal([], ARRAY(Integer))  # packed before revision 0019
        conditions.append(or_(has_agent, is_not_indexed))
    if order_filter.request_id is not None:
        conditions.append(table.request_id == order_filter.request_id)
    conditions += PageRequest(since=requested.since).conditions(table.last_order_id)
    conditions += PageRequest(until=requested.until).conditions(table.chunk_id)
    conditions += PageRequest(after=requested.after, order=requested.order).conditions(other_edge)
    conditions += requested.until_row(edge, end)
    # OFFSET keeps the planner from reading all chunks in the order of their ids.
    matching = (
        select(table.chunk_id, edge.label("edge"))
        .join(commands, commands.c.request_id == table.request_id)
        .where(*conditions)
        .offset(0)
        .subquery()
    )
    statement = select(matching).order_by(requested.sorting(matching.c.edge), matching.c.chunk_id)
    return await connection.execute(statement.limit(limit))


async def _find_chunk(connection: Connection, chunk_id: UUID) -> Any:
    """Return a chunk's content with the columns of its command, or None."""
    return await connection.first(
        select(archived_orders.c.content, *COMMAND_COLUMNS)
        .join(commands, commands.c.request_id == archived_orders.c.request_id)
        .where(archived_orders.c.chunk_id == chunk_id)
    )


def _matches(order: ArchivedOrder, order_filter: OrderFilter) -> bool:
    """Return whether an order matches those fields of a filter that are not on its command."""
    outcome = outcome_of(order.status, order.outcome)
    return (
        order_filter.status in {None, order.status}
        and order_filter.code in {None, order.result_code}
        and (
            order_filter.outcome in {None, outcome}
            or (order_filter.outcome == "expired" and (outcome or "").startswith("expired"))
        )
    )


def _json_bytes(order: StoredOrder) -> int:
    return len(msgspec.json.encode(order))


def _sorted(orders: Iterable[StoredOrder], requested: PageRequest) -> list[StoredOrder]:
    return sorted(orders, key=lambda order: order.order_id, reverse=requested.is_newest_first)


def merge(archived: Page[StoredOrder], others: Page[StoredOrder], requested: PageRequest) -> Page[StoredOrder]:
    """Return the first orders of two pages, each once: at most `limit` and about `PAGE_BYTES_MAXIMUM`."""
    ends = [UUID(page.next) for page in (archived, others) if page.next is not None]
    end = sorted(ends, reverse=requested.is_newest_first)[0] if ends else None
    by_id = {order.order_id: order for page in (archived, others) for order in page.items}
    taken: list[StoredOrder] = []
    size = 0
    for order in _sorted(by_id.values(), requested):
        if end is not None and requested.is_before(end, order.order_id):
            break
        size += _json_bytes(order)
        if len(taken) == requested.limit or (taken and size > PAGE_BYTES_MAXIMUM):
            end = taken[-1].order_id
            break
        taken.append(order)
    return Page(taken, None if end is None else str(end))
