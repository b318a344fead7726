"""Show, pause, resume and cancel commands, and advance their rollouts."""

from uuid import UUID

from comms_api.commands import control, queries
from comms_api.commands.control import Halt
from comms_api.commands.model import (
    FAILURES_SHOWN,
    Cancelled,
    Command,
    CommandProgress,
    CommandSummary,
    Held,
    Phase,
)
from comms_api.commands.rollout import credit_after, excess_failures, is_complete, releasable
from comms_api.database.connection import Connection, Engine
from comms_api.database.listener import Notifier
from comms_api.database.pages import Page, PageRequest
from comms_api.database.uuid7 import DatabaseClock
from comms_api.duties.repeating import Duty
from comms_api.errors import Conflict
from comms_api.orders import transitions
from comms_api.orders.counts import count_lately, count_orders, group_failures, list_failures
from comms_api.orders.dispatcher import ORDERS_CHANNEL
from comms_api.orders.model import OrderFilter
from comms_api.orders.transitions import CancelNotice
from comms_api.protocol import CancelArguments
from comms_api.settings import Settings

ROLLOUT_SECONDS = 1.0


class Commands:
    """The submitted commands, as operators see and control them."""

    def __init__(self, engine: Engine, clock: DatabaseClock, notifier: Notifier, settings: Settings) -> None:
        self._engine = engine
        self._clock = clock
        self._notifier = notifier
        self._held_seconds = settings.order_timeout_maximum_seconds
        self.cancelled = 0
        """The number of orders that this process has cancelled with their commands."""

    async def list(self, order_filter: OrderFilter, requested: PageRequest) -> Page[Command]:
        """Return one page of commands."""
        async with self._engine.connect() as connection:
            return await queries.list_commands(connection, order_filter, requested)

    async def get(self, request_id: UUID, service: str | None = None) -> CommandProgress:
        """Return a command, the number of its orders by status, and the latest failures.

        Raises `NotFound`, also for a command that `service` did not submit.
        """
        async with self._engine.connect() as connection:
            command = await queries.get_command(connection, request_id, service)
            counts = await count_orders(connection, request_id)
            failures = await list_failures(connection, request_id, FAILURES_SHOWN) if counts.failure else []
        return CommandProgress(command, counts, counts.is_done, failures)

    async def summarize(self, request_id: UUID) -> CommandSummary:
        """Return a command, its progress, and its failures by message; raises `NotFound`."""
        async with self._engine.connect() as connection:
            command = await queries.get_command(connection, request_id)
            counts = await count_orders(connection, request_id)
            ended = 0 if counts.is_done else await count_lately(connection, request_id, 60)
            failures = await group_failures(connection, request_id, FAILURES_SHOWN) if counts.failure else []
        return CommandSummary(command, counts, ended, failures)

    async def cancel(self, request_id: UUID, user: str) -> Cancelled:
        """Cancel every open order of a command, and notify the agents that have received one at their next poll.

        Idempotent; raises `NotFound`.
        """
        async with self._engine.begin() as connection:
            await queries.get_command(connection, request_id)
            cancelled, offered = await transitions.cancel_command(connection, request_id, user)
            notice = CancelNotice(self._clock.uuid7(), user, CancelArguments(request_id=request_id), offered)
            notified = await transitions.add_cancel_orders(connection, notice)
        self.cancelled += cancelled
        self._notifier.notify(ORDERS_CHANNEL)
        return Cancelled(cancelled, told=notified)

    async def pause(self, request_id: UUID, user: str) -> Held:
        """Hold the orders of a command that were never offered; the other orders continue.

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
        """Resume a paused or stopped command; the timeout of its held orders starts when they are released.

        Raises `NotFound`, and `Conflict` when the command is neither paused nor stopped.
        """
        async with self._engine.begin() as connection:
            resumed = await control.resume(connection, request_id, f"resumed by {user}")
            if resumed is None:
                command = await queries.get_command(connection, request_id)
                raise Conflict(f"The command is not paused or stopped: it is {command.phase}.")
        self._notifier.notify(ORDERS_CHANNEL)
        return Held(*resumed)


class Rollouts:
    """The duty that advances rollouts; any node may perform it at any time."""

    def __init__(self, engine: Engine, notifier: Notifier, settings: Settings) -> None:
        self._engine = engine
        self._notifier = notifier
        self._held_seconds = settings.order_timeout_maximum_seconds

    def duties(self) -> list[Duty]:
        """Return the duty that advances rollouts."""
        return [Duty("rollouts", self.advance, ROLLOUT_SECONDS)]

    async def advance(self) -> int:
        """Advance every rollout by a step, end pauses without open orders, and return how many orders were released."""
        async with self._engine.connect() as connection:
            rolling = await control.list_rolling(connection)
            paused = await control.list_paused(connection)
        released = 0
        for request_id in rolling:
            async with self._engine.begin() as connection:
                released += await _advance(connection, request_id, self._held_seconds)
        if paused:
            async with self._engine.begin() as connection:
                await control.end_pauses(connection, paused)
        if released:
            self._notifier.notify(ORDERS_CHANNEL)
        return released


async def _advance(connection: Connection, request_id: UUID, held_seconds: float) -> int:
    rolling = await control.lock_rolling(connection, request_id)
    if rolling is None:
        return 0
    credit = credit_after(rolling.rollout, rolling.credit, rolling.seconds)
    progress = await control.find_progress(connection, request_id, credit)
    reason = excess_failures(rolling.rollout, progress)
    if reason and await control.halt(connection, request_id, Halt("stopped", reason, held_seconds)) is not None:
        return 0
    released = await control.release_held(connection, request_id, releasable(rolling.rollout, progress))
    phase: Phase = "released" if is_complete(rolling.rollout, progress, released) else "rolling"
    await control.record_step(connection, rolling, phase, "", credit - released)
    return released
