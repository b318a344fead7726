"""Show commands and their orders, hold them back and cancel them."""

from collections.abc import AsyncIterator, Sequence
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from comms_api.commands import actions, control, queries
from comms_api.commands.actions import BUILT_IN, NewAction, RegisteredAction
from comms_api.commands.control import Halt
from comms_api.commands.model import FAILURES_SHOWN, Cancelled, Command, CommandProgress, Held
from comms_api.commands.schemas import Schemas
from comms_api.database.listener import Notifier
from comms_api.database.uuid7 import DatabaseClock
from comms_api.errors import Conflict, Invalid, NotFound
from comms_api.fairness.executors import BoundedExecutor
from comms_api.http.pages import Page, drain, make_page
from comms_api.orders import transitions
from comms_api.orders.archive import Unpack, find_chunk, unpack
from comms_api.orders.dispatcher import ORDERS_CHANNEL
from comms_api.orders.model import OrderFilter, StoredOrder
from comms_api.orders.queries import (
    count_orders,
    find_command_columns,
    get_order,
    list_failures,
    list_orders,
    stored_order,
)
from comms_api.orders.transitions import Notice
from comms_api.protocol import CANCEL_ACTION, CancelArguments
from comms_api.settings import Settings
from comms_api.text.printable import is_name

EXPORT_PAGE = 200
UNPACK_THREADS = 1
UNPACK_CALLS_MAXIMUM = 32
"""The most chunks of the archive that are unpacked or wait for it, on a node; beyond it, 503."""
ACTION_NAME_MAXIMUM = 128


class Commands:
    """The commands that were submitted."""

    def __init__(
        self, engine: AsyncEngine, clock: DatabaseClock, notifier: Notifier, schemas: Schemas, settings: Settings
    ) -> None:
        """Take the clock that ids are made by, and who tells the nodes."""
        self._engine = engine
        self._schemas = schemas
        self._clock = clock
        self._notifier = notifier
        self._held_seconds = settings.order_timeout_maximum_seconds
        self._unpacking = BoundedExecutor("the archive", UNPACK_THREADS, UNPACK_CALLS_MAXIMUM)

    def _unpack_for(self, user: str) -> Unpack:
        return lambda content: self._unpacking.run(user, lambda: unpack(content))

    # -- showing

    async def list(self, wanted: OrderFilter, after: UUID | None, limit: int) -> Page[Command]:
        """Return one page of commands, oldest first."""
        async with self._engine.connect() as connection:
            found, has_more = await queries.list_commands(connection, wanted, after, limit)
        return make_page(found, lambda command: str(command.request_id), has_more=has_more)

    async def get(self, request_id: UUID) -> CommandProgress:
        """Return a command, the number of its orders by status, and the latest failures; raises `NotFound`."""
        async with self._engine.connect() as connection:
            command = await queries.get_command(connection, request_id)
            counts = await count_orders(connection, request_id)
            failures = await list_failures(connection, request_id, FAILURES_SHOWN) if counts.failure else []
        return CommandProgress(command, counts, counts.is_done, failures)

    async def list_orders(self, wanted: OrderFilter, after: UUID | None, limit: int) -> Page[StoredOrder]:
        """Return one page of orders that are not archived, oldest first."""
        async with self._engine.connect() as connection:
            found, has_more = await list_orders(connection, wanted, after, limit)
        return make_page(found, lambda order: str(order.order_id), has_more=has_more)

    async def get_order(self, order_id: UUID, user: str) -> StoredOrder:
        """Return one order; raises `NotFound`."""
        async with self._engine.connect() as connection:
            return await get_order(connection, order_id, self._unpack_for(user))

    async def stream_orders(self, request_id: UUID, user: str) -> AsyncIterator[StoredOrder]:
        """Yield every order of a command once: the archived, the others, and those that were archived meanwhile.

        It holds no connection between two pages, so a slow reader costs the node nothing but that reader's page.
        """
        read: set[UUID] = set()
        shown: set[UUID] = set()
        async for order in self._stream_chunks(request_id, user, read):
            yield order
        after: UUID | None = None
        while True:
            page = await self.list_orders(OrderFilter(request_id=request_id), after, EXPORT_PAGE)
            for order in drain(page):
                shown.add(order.order_id)
                yield order
            if page.next is None:
                break
            after = UUID(page.next)
        # What was archived while we read is in chunks that are new; some of it was shown as rows.
        async for order in self._stream_chunks(request_id, user, read):
            if order.order_id not in shown:
                yield order

    async def _stream_chunks(self, request_id: UUID, user: str, read: set[UUID]) -> AsyncIterator[StoredOrder]:
        """Yield the orders of a command's chunks that are not among those `read`, and note them there."""
        while True:
            async with self._engine.connect() as connection:
                chunk = await find_chunk(connection, request_id, read)
                command = await find_command_columns(connection, request_id)
            if chunk is None or command is None:
                return
            read.add(chunk[0])
            for archived in await self._unpack_for(user)(chunk[1]):
                yield stored_order(archived, command)

    # -- control

    async def cancel(self, request_id: UUID, user: str) -> Cancelled:
        """End every open order of a command; agents that hold one are told at their next poll. Idempotent.

        Raises `NotFound`.
        """
        async with self._engine.begin() as connection:
            await queries.get_command(connection, request_id)
            cancelled, offered = await transitions.cancel_command(connection, request_id, user)
            told = await self._tell(connection, user, CancelArguments(request_id=request_id), offered)
        self._notifier.notify(ORDERS_CHANNEL)
        return Cancelled(cancelled, told)

    async def cancel_order(self, order_id: UUID, user: str) -> StoredOrder:
        """End an open order and return it; its agent is told at its next poll, if it was offered the order.

        Raises `NotFound`, and `Conflict` when it has ended already.
        """
        async with self._engine.begin() as connection:
            cancelled, offered = await transitions.cancel_order(connection, order_id, user)
            order = await get_order(connection, order_id, self._unpack_for(user))
            if not cancelled:
                raise Conflict(f"The order {order_id} has ended already: {order.status}.")
            await transitions.record_cancellation(connection, order_id, user)
            await self._tell(connection, user, CancelArguments(order_id=order_id), offered)
        self._notifier.notify(ORDERS_CHANNEL, [str(order.agent_id)])
        return order

    async def _tell(self, connection: AsyncConnection, user: str, arguments: CancelArguments, offered: int) -> int:
        if not offered:
            return 0
        notice = Notice(self._clock.uuid7(), user, arguments, offered)
        return await transitions.tell_of_cancellation(connection, notice)

    async def pause(self, request_id: UUID, user: str) -> Held:
        """Hold back the orders of a command that no agent was offered; those under way go on.

        Raises `NotFound`, and `Conflict` when the command has no open orders or is held already.
        """
        async with self._engine.begin() as connection:
            halt = Halt("paused", f"paused by {user}", self._held_seconds)
            held = await control.halt(connection, request_id, halt)
            if held is None:
                command = await queries.get_command(connection, request_id)
                raise Conflict(f"The command cannot be paused: it is {command.phase}, or has no open orders.")
            return Held("paused", held)

    async def resume(self, request_id: UUID, user: str) -> Held:
        """Let a paused or stopped command go on; the time to live of its orders begins when they are released.

        Raises `NotFound`, and `Conflict` when the command is neither paused nor stopped.
        """
        async with self._engine.begin() as connection:
            resumed = await control.resume(connection, request_id, f"resumed by {user}")
            if resumed is None:
                command = await queries.get_command(connection, request_id)
                raise Conflict(f"The command is not paused or stopped: it is {command.phase}.")
        self._notifier.notify(ORDERS_CHANNEL)
        return Held(*resumed)

    # -- the registry of actions

    async def register_action(self, name: str, action: NewAction, user: str) -> None:
        """Register an action; raises `Invalid` for a schema that cannot be used, `Conflict` for a built-in name."""
        if name in BUILT_IN or name == CANCEL_ACTION:
            raise Conflict(f"The action {name!r} is built in.")
        if len(name) > ACTION_NAME_MAXIMUM or not is_name(name):
            raise Invalid(f"name: expected 1 to {ACTION_NAME_MAXIMUM} printable characters, and not . or ..")
        await self._schemas.check_schema(bytes(action.schema), user)
        async with self._engine.begin() as connection:
            await actions.store_action(connection, name, action, user)

    async def list_actions(self) -> Sequence[RegisteredAction]:
        """Return every action, by name."""
        async with self._engine.connect() as connection:
            return await actions.list_actions(connection)

    async def forget_action(self, name: str) -> None:
        """Forget a registered action; raises `NotFound`."""
        async with self._engine.begin() as connection:
            if not await actions.delete_action(connection, name):
                raise NotFound(f"There is no registered action {name!r}.")
