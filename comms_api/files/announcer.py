"""Announce changes of files and groups to agents with orders, repeated until the agents have executed them."""

import asyncio
import math
from collections import defaultdict
from collections.abc import Sequence
from uuid import UUID

import msgspec

from comms_api.agents.configuration_changes import note_again
from comms_api.commands.model import NewCommand
from comms_api.commands.submission.submissions import Submissions
from comms_api.database.actor import Actor, acting_as
from comms_api.database.connection import Connection, Engine
from comms_api.database.listener import Notifier
from comms_api.duties.repeating import Duty
from comms_api.files.announcements import (
    Change,
    check_announcements,
    find_settling_seconds,
    take_changes,
    track_orders,
    without_pending_fetch,
)
from comms_api.files.drift import note_without_files
from comms_api.orders.dispatcher import ORDERS_CHANNEL
from comms_api.orders.model import CommandTarget
from comms_api.orders.transitions import expire_early
from comms_api.protocol import FETCH_CONFIG_ACTION, SET_GROUP_ACTION, Action
from comms_api.settings import Settings

EXECUTION_SECONDS = 600.0
"""A real agent reports a time-out when an order has run for this long."""

AGENTS_PER_STEP = 5_000
ANNOUNCER = "comms-api"

SWEEP_SECONDS = 1.0
"""The interval at which to look for changes that other processes have committed."""

REPEAT_SECONDS = 5.0
PAUSE_SECONDS = 0.05
"""The shortest pause before another look at changes: another node may be announcing them."""


class Announcer:
    """Submits the orders that announce changes of files and groups; any node may do this at any time.

    The process that commits a change sets its `has_changes`; if it dies, another process soon finds the change.
    """

    def __init__(
        self,
        engine: Engine,
        submissions: Submissions,
        notifier: Notifier,
        has_changes: asyncio.Event,
        settings: Settings,
    ) -> None:
        self._engine = engine
        self._has_changes = has_changes
        self._settle_seconds = settings.configuration_settle_seconds
        self._submissions = submissions
        self._notifier = notifier
        self._timeout_seconds = settings.order_timeout_maximum_seconds  # orders wait for absent agents
        self._offers_maximum = math.ceil(EXECUTION_SECONDS / settings.lease_seconds) + 2

    def duties(self) -> list[Duty]:
        """Return the duties that announce changes and repeat failed announcements."""
        return [
            Duty("announcements", self._announce_in_time, SWEEP_SECONDS, wake=self._has_changes),
            Duty("repeated announcements", self.repeat, REPEAT_SECONDS),
        ]

    async def _announce_in_time(self) -> None:
        """Announce the settled changes; if others remain, wait until the first of them settles, and begin again."""
        await self.announce()
        async with self._engine.connect() as connection:
            seconds = await find_settling_seconds(connection, self._settle_seconds)
        if seconds is not None:
            await asyncio.sleep(max(PAUSE_SECONDS, min(seconds, self._settle_seconds)))
            self._has_changes.set()

    async def announce(self) -> int:
        """Order agents to apply changed configurations; return how many.

        The changes and their orders commit together: no change is forgotten or announced twice.
        """
        total, taken = 0, AGENTS_PER_STEP
        while taken == AGENTS_PER_STEP:
            with acting_as(Actor(ANNOUNCER)):
                async with self._engine.begin() as connection:
                    changes = await take_changes(connection, self._settle_seconds, AGENTS_PER_STEP)
                    await self._order(connection, changes)
            taken = len(changes)
            total += taken
            if taken:
                self._notifier.notify(ORDERS_CHANNEL)
        return total

    async def repeat(self) -> int:
        """Turn failed announcements into changes again, with pauses that double; return how many.

        The changes are noted in a separate transaction, since `announce` locks changes before announcements, and
        the other order could deadlock. If the node dies in between, the next check finds the same failed orders.
        """
        total, due = 0, AGENTS_PER_STEP
        while due == AGENTS_PER_STEP:
            async with self._engine.begin() as connection:
                due, failed = await check_announcements(connection, self._offers_maximum, AGENTS_PER_STEP)
                await expire_early(connection, [announcement.order_id for announcement in failed])
            if failed:
                changes = [(announcement.agent_id, announcement.has_moved) for announcement in failed]
                async with self._engine.begin() as connection:
                    await note_again(connection, changes)
                self._has_changes.set()
            total += len(failed)
        return total

    async def _order(self, connection: Connection, changes: Sequence[Change]) -> None:
        await note_without_files(connection, [change.agent_id for change in changes])
        unmoved = [change.agent_id for change in changes if not change.has_moved]
        if to_order := await without_pending_fetch(connection, unmoved, ANNOUNCER):
            await self._submit(connection, Action(FETCH_CONFIG_ACTION), to_order)
        moved: dict[tuple[str, ...], list[UUID]] = defaultdict(list)
        for change in changes:
            if change.has_moved:
                moved[change.groups].append(change.agent_id)
        for groups, ids in moved.items():
            args = msgspec.Raw(msgspec.json.encode({"groups": groups}))
            await self._submit(connection, Action(SET_GROUP_ACTION, args), ids)

    async def _submit(self, connection: Connection, action: Action, ids: Sequence[UUID]) -> None:
        target = CommandTarget("agent", [str(agent_id) for agent_id in ids])
        command = NewCommand("Engine", target, action, self._timeout_seconds)
        submitted = await self._submissions.submit_within(connection, ANNOUNCER, command)
        await track_orders(connection, submitted.request_id, has_moved=action.name == SET_GROUP_ACTION)
