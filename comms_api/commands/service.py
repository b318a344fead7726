"""Submit commands, show them and their orders, hold them back and cancel them."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from comms_api.commands import actions, control, endings, expansion, queries
from comms_api.commands.actions import BUILT_IN, ActionSchema, NewAction, RegisteredAction
from comms_api.commands.archive import find_chunk, unpack
from comms_api.commands.control import Halt
from comms_api.commands.endings import Notice
from comms_api.commands.expansion import Expansion
from comms_api.commands.idempotency import IdempotencyKey, claim_key, find_answer, store_answer
from comms_api.commands.model import (
    FAILURES_SHOWN,
    ORDER_IDS_SHOWN,
    RECIPIENTS_SHOWN,
    Cancelled,
    Command,
    CommandProgress,
    CommandTarget,
    Held,
    NewCommand,
    OrderFilter,
    Rehearsed,
    Retry,
    StoredOrder,
    Submitted,
)
from comms_api.commands.targets import find_unknown, may_name_unknown, named_recipients, recipients_again
from comms_api.database.direct import Connection, direct
from comms_api.database.listener import Notifier
from comms_api.database.uuid7 import DatabaseClock
from comms_api.errors import Conflict, Invalid, NotFound
from comms_api.http.pages import Page, page_of
from comms_api.protocol import CANCEL_ACTION, CancelArguments, TargetType
from comms_api.settings import Settings

ORDERS_CHANNEL = "comms_api_orders"
EXPORT_PAGE = 200
HEAD_START_SECONDS = 0.001
"""How long the answer to a submission lets polls that are held here be answered: making it would delay them."""


class Commands:
    """The command manager."""

    def __init__(self, engine: AsyncEngine, clock: DatabaseClock, notifier: Notifier, settings: Settings) -> None:
        """Take the clock that ids are made by, and who tells the nodes."""
        self._engine = engine
        self._clock = clock
        self._notifier = notifier
        self._held_seconds = settings.order_timeout_maximum_seconds
        self._passes_unknown = settings.unknown_actions == "pass"

    # -- submitting

    async def submit(
        self, user: str, submitted: Sequence[NewCommand], key: IdempotencyKey | None = None
    ) -> list[Submitted]:
        """Make one order per recipient for every command, or nothing at all; durable when this returns.

        With a key that was used before, return what was returned then. Raises `Invalid`, naming each command at fault,
        for unknown names, for a target that nobody matches and for args that their action does not allow.
        """
        if key is None and _is_one_statement(submitted):
            answer = await self._submit_alone(user, submitted)
        else:
            answer = await self._submit_together(user, submitted, key)
        self._notifier.notify(ORDERS_CHANNEL, _named_recipients(submitted))
        await asyncio.sleep(HEAD_START_SECONDS)
        return answer

    async def _submit_alone(self, user: str, submitted: Sequence[NewCommand]) -> list[Submitted]:
        [wanted] = self._prepare(user, submitted, BUILT_IN)
        async with direct(self._engine) as connection:
            answer = await _submitted(connection, wanted)
        if not answer.orders:
            async with self._engine.connect() as reading:
                await _refuse_strangers(reading, [wanted], [0])
        return [answer]

    async def _submit_together(
        self, user: str, submitted: Sequence[NewCommand], key: IdempotencyKey | None
    ) -> list[Submitted]:
        async with self._engine.begin() as connection:
            if key is not None and not await claim_key(connection, key):
                return await find_answer(connection, key)
            expansions = self._prepare(user, submitted, await _load_schemas(connection, submitted))
            answer = [await _submitted(connection, wanted) for wanted in expansions]
            await _refuse_strangers(connection, expansions, [command.orders for command in answer])
            if key is not None:
                await store_answer(connection, key, answer)
        return answer

    async def rehearse(self, user: str, submitted: Sequence[NewCommand]) -> list[Rehearsed]:
        """Return who would get each command, and submit nothing; raises as `submit` does."""
        async with self._engine.connect() as connection:
            expansions = self._prepare(user, submitted, await _load_schemas(connection, submitted))
            rehearsed = [
                Rehearsed(*await expansion.rehearse_command(connection, wanted, RECIPIENTS_SHOWN))
                for wanted in expansions
            ]
            await _refuse_strangers(connection, expansions, [command.orders for command in rehearsed])
        return rehearsed

    def _prepare(
        self, user: str, submitted: Sequence[NewCommand], schemas: Mapping[str, ActionSchema]
    ) -> list[Expansion]:
        first = self._clock.uuid7().int
        expansions = []
        for index, command in enumerate(submitted):
            action = actions.check_action(
                f"commands[{index}]",
                command.action,
                command.target,
                schemas.get(command.action.name),
                passes_unknown=self._passes_unknown,
            )
            checked = msgspec.structs.replace(command, action=action)
            expansions.append(expansion.expansion_of(UUID(int=first + index), user, checked, self._held_seconds))
        return expansions

    async def retry(
        self, request_id: UUID, user: str, wanted: Retry, key: IdempotencyKey | None = None
    ) -> list[Submitted]:
        """Submit a command again to those whose orders failed, as a command of its own.

        Raises `NotFound`, and `Conflict` when none of its orders ended so, or they are archived.
        """
        async with self._engine.begin() as connection:
            if key is not None and not await claim_key(connection, key):
                return await find_answer(connection, key)
            old = await _find(connection, request_id)
            if old.action.name == CANCEL_ACTION:
                raise Conflict("A cancellation cannot be repeated: its orders have ended.")
            again = NewCommand(
                source=old.source,  # type: ignore[arg-type] # as it was submitted
                target=old.target,
                action=old.action,
                timeout=min(wanted.timeout or old.timeout, self._held_seconds),
                priority=old.priority,
                rollout=old.rollout,
            )
            chosen = recipients_again(request_id, wanted.statuses, old.target.type)
            repeated = Expansion(self._clock.uuid7(), user, again, chosen, self._held_seconds, retry_of=request_id)
            answer = [await _submitted(connection, repeated)]
            if not answer[0].orders:
                raise Conflict(f"The command {request_id} has no order to repeat: {' or '.join(wanted.statuses)}.")
            if key is not None:
                await store_answer(connection, key, answer)
        self._notifier.notify(ORDERS_CHANNEL)
        return answer

    async def list_order_ids(self, submitted: Sequence[Submitted]) -> list[UUID]:
        """Return the id of every order of commands that were just submitted."""
        if all(command.orders <= ORDER_IDS_SHOWN for command in submitted):
            return [order_id for command in submitted for order_id in command.order_ids]
        async with self._engine.connect() as connection:
            return await queries.list_order_ids(connection, [command.request_id for command in submitted])

    # -- showing

    async def list(self, wanted: OrderFilter, after: UUID | None, limit: int) -> Page[Command]:
        """Return one page of commands, oldest first."""
        async with self._engine.connect() as connection:
            commands = await queries.list_commands(connection, wanted, after, limit + 1)
        return page_of(commands, limit, lambda command: str(command.request_id))

    async def get(self, request_id: UUID) -> CommandProgress:
        """Return a command, the number of its orders by status, and the latest failures; raises `NotFound`."""
        async with self._engine.connect() as connection:
            command = await _find(connection, request_id)
            counts = await queries.count_orders(connection, request_id)
            failures = await queries.list_failures(connection, request_id, FAILURES_SHOWN) if counts.failure else []
        return CommandProgress(command, counts, counts.is_done, failures)

    async def list_orders(self, wanted: OrderFilter, after: UUID | None, limit: int) -> Page[StoredOrder]:
        """Return one page of orders that are not archived, oldest first."""
        async with self._engine.connect() as connection:
            orders = await queries.list_orders(connection, wanted, after, limit + 1)
        return page_of(orders, limit, lambda order: str(order.order_id))

    async def get_order(self, order_id: UUID) -> StoredOrder:
        """Return one order; raises `NotFound`."""
        async with self._engine.connect() as connection:
            return await _find_order(connection, order_id)

    async def stream_orders(self, request_id: UUID) -> AsyncIterator[StoredOrder]:
        """Yield every order of a command once: the archived, the others, and those that were archived meanwhile.

        It holds no connection between two pages, so a slow reader costs the node nothing but that reader's page.
        """
        read: set[UUID] = set()
        shown: set[UUID] = set()
        async for order in self._stream_chunks(request_id, read):
            yield order
        after: UUID | None = None
        while True:
            page = await self.list_orders(OrderFilter(request_id=request_id), after, EXPORT_PAGE)
            for order in page.items:
                shown.add(order.order_id)
                yield order
            if page.next is None:
                break
            after = UUID(page.next)
        # What was archived while we read is in chunks that are new; some of it was shown as rows.
        async for order in self._stream_chunks(request_id, read):
            if order.order_id not in shown:
                yield order

    async def _stream_chunks(self, request_id: UUID, read: set[UUID]) -> AsyncIterator[StoredOrder]:
        """Yield the orders of a command's chunks that are not among those `read`, and note them there."""
        while True:
            async with self._engine.connect() as connection:
                chunk = await find_chunk(connection, request_id, read)
                command = await queries.find_command_columns(connection, request_id)
            if chunk is None or command is None:
                return
            read.add(chunk[0])
            for archived in await asyncio.to_thread(unpack, chunk[1]):
                yield queries.stored_order(archived, command)

    # -- control

    async def cancel(self, request_id: UUID, user: str) -> Cancelled:
        """End every open order of a command; agents that hold one are told at their next poll. Idempotent.

        Raises `NotFound`.
        """
        async with self._engine.begin() as connection:
            await _find(connection, request_id)
            cancelled, offered = await endings.cancel_command(connection, request_id, user)
            told = await self._tell(connection, user, CancelArguments(request_id=request_id), offered)
        self._notifier.notify(ORDERS_CHANNEL)
        return Cancelled(cancelled, told)

    async def cancel_order(self, order_id: UUID, user: str) -> StoredOrder:
        """End an open order and return it; its agent is told at its next poll, if it was offered the order.

        Raises `NotFound`, and `Conflict` when it has ended already.
        """
        async with self._engine.begin() as connection:
            cancelled, offered = await endings.cancel_order(connection, order_id, user)
            order = await _find_order(connection, order_id)
            if not cancelled:
                raise Conflict(f"The order {order_id} has ended already: {order.status}.")
            await endings.record_cancellation(connection, order_id, user)
            await self._tell(connection, user, CancelArguments(order_id=order_id), offered)
        self._notifier.notify(ORDERS_CHANNEL, [str(order.agent_id)])
        return order

    async def _tell(self, connection: AsyncConnection, user: str, arguments: CancelArguments, offered: int) -> int:
        if not offered:
            return 0
        notice = Notice(self._clock.uuid7(), user, arguments, offered)
        return await endings.tell_of_cancellation(connection, notice)

    async def pause(self, request_id: UUID, user: str) -> Held:
        """Hold back the orders of a command that no agent was offered; those under way go on.

        Raises `NotFound`, and `Conflict` when the command has no open orders or is held already.
        """
        async with self._engine.begin() as connection:
            command = await _find(connection, request_id)
            halt = Halt("paused", f"paused by {user}", self._held_seconds)
            held = await control.halt(connection, request_id, halt)
            if held is None:
                raise Conflict(f"The command cannot be paused: it is {command.phase}, or has no open orders.")
            return Held("paused", held)

    async def resume(self, request_id: UUID, user: str) -> Held:
        """Let a paused or stopped command go on; the time to live of its orders begins when they are released.

        Raises `NotFound`, and `Conflict` when the command is neither paused nor stopped.
        """
        released = 0
        async with self._engine.begin() as connection:
            command = await _find(connection, request_id)
            phase = await control.resume(connection, request_id, f"resumed by {user}")
            if phase is None:
                raise Conflict(f"The command is not paused or stopped: it is {command.phase}.")
            if phase == "released":
                released = await control.release_held(connection, request_id)
        self._notifier.notify(ORDERS_CHANNEL)
        return Held(phase, released)

    # -- the registry of actions

    async def register_action(self, name: str, action: NewAction, user: str) -> None:
        """Register an action; raises `Invalid` for a schema that cannot be used, `Conflict` for a built-in name."""
        if name in BUILT_IN or name == CANCEL_ACTION:
            raise Conflict(f"The action {name!r} is built in.")
        if not 0 < len(name) <= ACTION_NAME_MAXIMUM or "\0" in name:
            raise Invalid(f"name: must have 1 to {ACTION_NAME_MAXIMUM} characters")
        actions.check_schema(action.schema)
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


ACTION_NAME_MAXIMUM = 128
NAMES_SHOWN = 20
_KIND: dict[TargetType, str] = {"agent": "agent", "group": "group", "server": "service"}


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:NAMES_SHOWN])
    return shown if len(names) <= NAMES_SHOWN else f"{shown} and {len(names) - NAMES_SHOWN} more"


def _named_recipients(submitted: Sequence[NewCommand]) -> set[str]:
    """Return the ids of whom the commands are for, if all of them name these; else none."""
    targets = [command.target for command in submitted]
    if any(target.type in {"group", "all"} for target in targets):
        return set()
    return {str(recipient) for target in targets for recipient in named_recipients(target)}


def _is_one_statement(submitted: Sequence[NewCommand]) -> bool:
    """Return whether nothing is to be read before, and the statement does nothing if a fault is in whom it is for."""
    if len(submitted) != 1:
        return False
    [command] = submitted
    return command.action.name in BUILT_IN and command.target.filter is None and not may_name_unknown(command.target, 1)


async def _load_schemas(connection: AsyncConnection, submitted: Sequence[NewCommand]) -> Mapping[str, ActionSchema]:
    return await actions.load_schemas(connection, {command.action.name for command in submitted})


async def _refuse_strangers(
    connection: AsyncConnection, expansions: Sequence[Expansion], orders: Sequence[int]
) -> None:
    """Raise `Invalid` for names that nobody has, or else for targets that nobody matches."""
    targets = [wanted.command.target for wanted in expansions]
    faults = [
        f"commands[{index}].target.id: there is no {_KIND[target.type]} {_listed(unknown)}"
        for index, (target, count) in enumerate(zip(targets, orders, strict=True))
        if may_name_unknown(target, count) and (unknown := await find_unknown(connection, target))
    ] or [
        f"commands[{index}].target: there is no agent in {_named(target)}"
        for index, (target, count) in enumerate(zip(targets, orders, strict=True))
        if not count
    ]
    if faults:
        raise Invalid("; ".join(faults) + "; nothing was submitted")


def _named(target: CommandTarget) -> str:
    place = f"the group {_listed(target.ids)}" if target.type == "group" else "the target"
    return f"{place} that matches the filter" if target.filter else place


async def _submitted(connection: Connection, wanted: Expansion) -> Submitted:
    count, order_ids = await expansion.expand_command(connection, wanted, ORDER_IDS_SHOWN)
    return Submitted(wanted.request_id, count, order_ids, f"/orders?request_id={wanted.request_id}")


async def _find(connection: AsyncConnection, request_id: UUID) -> Command:
    command = await queries.find_command(connection, request_id)
    if command is None:
        raise NotFound(f"There is no command {request_id}.")
    return command


async def _find_order(connection: AsyncConnection, order_id: UUID) -> StoredOrder:
    order = await queries.find_order(connection, order_id)
    if order is None:
        raise NotFound(f"There is no order {order_id}.")
    return order
