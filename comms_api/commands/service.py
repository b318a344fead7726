"""Submit commands, show them and their orders, and end what is over."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from comms_api.commands import queries, store
from comms_api.commands.idempotency import IdempotencyKey, claim_key, find_answer, store_answer
from comms_api.commands.model import (
    ORDER_IDS_SHOWN,
    Command,
    CommandProgress,
    NewCommand,
    OrderFilter,
    StoredOrder,
    Submitted,
)
from comms_api.database.listener import Notifier
from comms_api.database.partitions import drop_partitions
from comms_api.database.schema import finished_orders
from comms_api.database.uuid7 import DatabaseClock, uuid7_time
from comms_api.errors import Conflict, Invalid, NotFound
from comms_api.http.pages import Page, page_of
from comms_api.protocol import TargetType

ORDERS_CHANNEL = "comms_api_orders"
EXPIRY_STEP = 5_000


class Commands:
    """The command manager."""

    def __init__(self, engine: AsyncEngine, clock: DatabaseClock, notifier: Notifier) -> None:
        """Take the clock that ids are made by, and who tells the nodes."""
        self._engine = engine
        self._clock = clock
        self._notifier = notifier

    async def submit(
        self, user: str, submitted: Sequence[NewCommand], key: IdempotencyKey | None = None
    ) -> list[Submitted]:
        """Make one order per targeted agent for every command, or nothing at all; durable when this returns.

        With a key that was used before, return what was returned then. Raises `Invalid`, naming the command, for an
        agent or group that is unknown or a group without agents, and for a key that was used with another body.
        """
        _check_agent_ids(submitted)
        async with self._engine.begin() as connection:
            if key is not None and not await claim_key(connection, key):
                return await find_answer(connection, key)
            answer = await self._expand(connection, user, submitted)
            if key is not None:
                await store_answer(connection, key, answer)
        self._notifier.notify(ORDERS_CHANNEL)
        return answer

    async def _expand(self, connection: AsyncConnection, user: str, submitted: Sequence[NewCommand]) -> list[Submitted]:
        first = self._clock.uuid7().int
        requests = [(UUID(int=first + index), command) for index, command in enumerate(submitted)]
        await store.insert_commands(connection, user, requests)
        expanded = await store.expand_commands(connection, [id_ for id_, _ in requests], ORDER_IDS_SHOWN)
        for index, (request_id, command) in enumerate(requests):
            if request_id not in expanded:
                raise Invalid(f"commands[{index}].target.id: {_nobody(command)}; nothing was submitted")
        return [
            Submitted(request_id, *expanded[request_id], f"/orders?request_id={request_id}")
            for request_id, _ in requests
        ]

    async def list_order_ids(self, submitted: Sequence[Submitted]) -> list[UUID]:
        """Return the id of every order of commands that were just submitted."""
        if all(command.orders <= ORDER_IDS_SHOWN for command in submitted):
            return [order_id for command in submitted for order_id in command.order_ids]
        async with self._engine.connect() as connection:
            return await queries.list_order_ids(connection, [command.request_id for command in submitted])

    async def list(self, after: UUID | None, limit: int) -> Page[Command]:
        """Return one page of commands, oldest first."""
        async with self._engine.connect() as connection:
            commands = await queries.list_commands(connection, after, limit + 1)
        return page_of(commands, limit, lambda command: str(command.request_id))

    async def get(self, request_id: UUID) -> CommandProgress:
        """Return a command and the number of its orders by status; raises `NotFound`."""
        async with self._engine.connect() as connection:
            command = await queries.find_command(connection, request_id)
            if command is None:
                raise NotFound(f"There is no command {request_id}.")
            return CommandProgress(command, await queries.count_orders(connection, request_id))

    async def list_orders(self, wanted: OrderFilter, after: UUID | None, limit: int) -> Page[StoredOrder]:
        """Return one page of orders, oldest first."""
        async with self._engine.connect() as connection:
            orders = await queries.list_orders(connection, wanted, after, limit + 1)
        return page_of(orders, limit, lambda order: str(order.order_id))

    async def get_order(self, order_id: UUID) -> StoredOrder:
        """Return one order; raises `NotFound`."""
        async with self._engine.connect() as connection:
            order = await queries.find_order(connection, order_id)
        if order is None:
            raise NotFound(f"There is no order {order_id}.")
        return order

    async def cancel(self, request_id: UUID, user: str) -> int:
        """End every open order of a command, and return how many; idempotent. Raises `NotFound`."""
        async with self._engine.begin() as connection:
            if await queries.find_command(connection, request_id) is None:
                raise NotFound(f"There is no command {request_id}.")
            return await store.cancel_command(connection, request_id, user)

    async def cancel_order(self, order_id: UUID, user: str) -> StoredOrder:
        """End an open order and return it; raises `NotFound`, and `Conflict` when it has ended already."""
        async with self._engine.begin() as connection:
            cancelled = await store.cancel_order(connection, order_id, user)
            order = await queries.find_order(connection, order_id)
        if order is None:
            raise NotFound(f"There is no order {order_id}.")
        if not cancelled:
            raise Conflict(f"The order {order_id} has ended already: {order.status}.")
        return order

    async def expire(self) -> int:
        """End every order whose time is over, in bounded steps; return how many. Any node may do this at any time."""
        total = 0
        while True:
            async with self._engine.begin() as connection:
                expired = await store.expire_orders(connection, EXPIRY_STEP)
            total += expired
            if expired < EXPIRY_STEP:
                return total

    async def drop_history(self, older_than_days: int) -> None:
        """Drop finished orders by age, and then their commands; but never the place of an order that is still open."""
        async with self._engine.connect() as connection:
            oldest = await store.find_oldest_order(connection)
        keep_from = uuid7_time(oldest).date() if oldest else None
        await drop_partitions(self._engine, finished_orders.name, older_than_days, keep_from)
        await self._forget(older_than_days)

    async def _forget(self, older_than_days: int) -> None:
        deleted = EXPIRY_STEP
        while deleted == EXPIRY_STEP:
            async with self._engine.begin() as connection:
                deleted = await store.delete_commands(connection, older_than_days, EXPIRY_STEP)


_NOBODY: dict[TargetType, str] = {"agent": "there is no agent", "group": "there is no agent in a group"}


def _nobody(command: NewCommand) -> str:
    return f"{_NOBODY[command.target.type]} {command.target.id!r}"


def _check_agent_ids(submitted: Sequence[NewCommand]) -> None:
    for index, command in enumerate(submitted):
        if command.target.type == "agent":
            try:
                UUID(command.target.id)
            except ValueError:
                raise Invalid(f"commands[{index}].target.id: {_nobody(command)}") from None
