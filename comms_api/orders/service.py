"""Show orders, open, finished and archived, and cancel them."""

from collections.abc import AsyncIterator, Collection
from datetime import UTC, datetime
from uuid import UUID

import msgspec

from comms_api.agents.naming import find_names
from comms_api.database.connection import Engine
from comms_api.database.listener import Notifier
from comms_api.database.pages import Page, PageRequest, drain
from comms_api.database.uuid7 import DatabaseClock, uuid7_floor
from comms_api.errors import Conflict, NotFound
from comms_api.fairness.executors import BoundedExecutor
from comms_api.orders import queries, transitions
from comms_api.orders.archive.chunks import ArchivedOrder, Unpack, find_chunk, unpack
from comms_api.orders.archive.history import list_archived, merge, read_chunk
from comms_api.orders.counts import count_recent
from comms_api.orders.dispatcher import ORDERS_CHANNEL
from comms_api.orders.model import OrderFilter, RecentCounts, StoredOrder
from comms_api.orders.transitions import CancelNotice
from comms_api.protocol import CancelArguments

EXPORT_PAGE = 200

COUNTED_MAXIMUM = 100_000
"""The most orders to read for a count of recent orders."""

UNPACK_THREADS = 1
UNPACK_CALLS_MAXIMUM = 32
"""The most chunks of the archive that a node unpacks or queues for unpacking at once; further ones are 503."""


class StoredOrders:
    """The orders of the fleet, as operators see them."""

    def __init__(self, engine: Engine, clock: DatabaseClock, notifier: Notifier) -> None:
        self._engine = engine
        self._clock = clock
        self._notifier = notifier
        self._unpacking = BoundedExecutor("the archive", UNPACK_THREADS, UNPACK_CALLS_MAXIMUM)
        self.cancelled = 0
        """The number of orders that this process has cancelled one by one."""

    async def list(self, order_filter: OrderFilter, requested: PageRequest, user: str) -> Page[StoredOrder]:
        """Return one page of orders: with a filter by agent or command archived orders too, otherwise all others.

        A page may have few orders, or none, and still not be the last.
        """
        async with self._engine.connect() as connection:
            page = await queries.list_orders(connection, order_filter, requested)
        # Archived orders are read last, so that an order that is archived in between is found at least once.
        if order_filter.agent_id is None and order_filter.request_id is None:
            return page

        async def unpack_aside(content: bytes) -> list[ArchivedOrder]:
            return await self._unpacking.run(user, lambda: read_chunk(content, order_filter, requested))

        # Orders that follow the end of this page are on the next one.
        end = None if page.next is None else UUID(page.next)
        archived = await list_archived(self._engine, order_filter, requested, end, unpack_aside)
        return merge(archived, page, requested)

    async def name_recipients(self, ids: Collection[UUID]) -> dict[str, str]:
        """Map ids of recipients, as texts, to the names of agents; skip deleted agents and services."""
        async with self._engine.connect() as connection:
            return await find_names(connection, ids)

    async def count_recent(self, seconds: float) -> RecentCounts:
        """Return the number of open orders, and of ended orders that were created within the last `seconds`."""
        oldest = uuid7_floor(datetime.fromtimestamp(self._clock.now() - seconds, UTC))
        async with self._engine.connect() as connection:
            return await count_recent(connection, oldest, COUNTED_MAXIMUM)

    async def get(self, order_id: UUID, user: str, service: str | None = None) -> StoredOrder:
        """Return one order; raises `NotFound`, also for an order that `service` did not submit."""
        async with self._engine.connect() as connection:
            order = await queries.get_order(connection, order_id, self._unpack_for(user))
            if service is not None and not await queries.is_submitted_by(connection, order.request_id, service):
                raise NotFound(f"There is no order {order_id}.")
            return order

    async def stream(self, request_id: UUID, user: str) -> AsyncIterator[StoredOrder]:
        """Yield every order of a command once: archived orders, other orders, then orders archived during the export.

        It holds no connection between two pages, so a slow reader costs the node only that reader's page.
        """
        read: set[UUID] = set()
        shown: set[UUID] = set()
        async for order in self._stream_chunks(request_id, user, read):
            yield order
        requested = PageRequest(EXPORT_PAGE)
        while True:
            async with self._engine.connect() as connection:
                page = await queries.list_orders(connection, OrderFilter(request_id=request_id), requested)
            for order in drain(page):
                shown.add(order.order_id)
                yield order
            if page.next is None:
                break
            requested = msgspec.structs.replace(requested, after=UUID(page.next))
        # Orders that were archived during the loop are in new chunks; some of them were yielded as rows.
        async for order in self._stream_chunks(request_id, user, read):
            if order.order_id not in shown:
                yield order

    async def _stream_chunks(self, request_id: UUID, user: str, read: set[UUID]) -> AsyncIterator[StoredOrder]:
        """Yield the orders of a command's chunks that are not in `read`, and add the chunks to `read`."""
        while True:
            async with self._engine.connect() as connection:
                chunk = await find_chunk(connection, request_id, read)
                command = await queries.find_command_columns(connection, request_id)
            if chunk is None or command is None:
                return
            read.add(chunk[0])
            for archived in await self._unpack_for(user)(chunk[1]):
                yield queries.stored_order(archived, command)

    async def cancel(self, order_id: UUID, user: str) -> StoredOrder:
        """Cancel an open order and return it; notify its agent at its next poll if it has received the order.

        Raises `NotFound`, and `Conflict` when it has ended already.
        """
        async with self._engine.begin() as connection:
            cancelled, offered = await transitions.cancel_order(connection, order_id, user)
            order = await queries.get_order(connection, order_id, self._unpack_for(user))
            if not cancelled:
                raise Conflict(f"The order {order_id} has ended already: {order.status}.")
            await transitions.record_cancellation(connection, order_id, user)
            notice = CancelNotice(self._clock.uuid7(), user, CancelArguments(order_id=order_id), offered)
            await transitions.add_cancel_orders(connection, notice)
        self.cancelled += 1
        self._notifier.notify(ORDERS_CHANNEL, [str(order.agent_id)])
        return order

    def _unpack_for(self, user: str) -> Unpack:
        return lambda content: self._unpacking.run(user, lambda: unpack(content))
