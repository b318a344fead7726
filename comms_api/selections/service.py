"""Select agents, and act on all agents of a selection in steps that any node can continue."""

import asyncio
from collections.abc import Sequence
from uuid import UUID

from comms_api.agents.configuration_changes import note_moved
from comms_api.agents.keys import LOGIN_FAILURES
from comms_api.agents.model import AgentFilter, Visibility
from comms_api.agents.store import conditions, set_blocked, visibility_conditions
from comms_api.database.actor import SET_ACTOR
from comms_api.database.connection import Connection, Engine
from comms_api.database.housekeeping import HOUSEKEEPING_SECONDS, transaction_duty
from comms_api.database.pages import Page, page_of
from comms_api.database.schema import agents, is_one_of
from comms_api.database.uuid7 import DatabaseClock
from comms_api.duties.repeating import Duty
from comms_api.errors import Conflict, Invalid, NotFound
from comms_api.groups.store import delete_members, insert_members, is_group, lock_group
from comms_api.lockouts.store import clear_everywhere
from comms_api.revocations.service import Revocations
from comms_api.revocations.store import revoke_tokens
from comms_api.selections import store
from comms_api.selections.model import (
    AGENTS_MAXIMUM,
    SELECTIONS_MAXIMUM,
    Action,
    SelectedAgent,
    Selection,
    Step,
)

AGENTS_PER_STEP = 500
SWEEP_SECONDS = 15.0
"""The interval at which to look for actions of processes that have died."""


class Selections:
    """The selections of agents; `has_changes` is set after each commit that changes what agents should run."""

    def __init__(
        self, engine: Engine, clock: DatabaseClock, revocations: Revocations, has_changes: asyncio.Event
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._revocations = revocations
        self._has_changes = has_changes
        self._has_begun = asyncio.Event()

    def duties(self) -> Sequence[Duty]:
        """Return the duties that continue actions, and delete expired selections."""
        return [
            Duty("actions on selections", self.continue_actions, SWEEP_SECONDS, wake=self._has_begun),
            transaction_duty("expired selections", self._engine, HOUSEKEEPING_SECONDS, store.delete_expired),
        ]

    async def select_matching(
        self, user: str, query: str, agent_filter: AgentFilter, visibility: Visibility
    ) -> Selection:
        """Select the agents that match now; raises `Invalid` if there are none, or more than `AGENTS_MAXIMUM`."""
        async with self._engine.begin() as connection:
            chosen = [*visibility_conditions(visibility), *conditions(agent_filter)]
            return await self._insert(connection, user, query, chosen)

    async def select(self, user: str, ids: Sequence[UUID]) -> Selection:
        """Select the agents with these ids; raises `Invalid` if there are none."""
        async with self._engine.begin() as connection:
            return await self._insert(connection, user, None, [is_one_of(agents.c.id, ids)])

    async def _insert(
        self, connection: Connection, user: str, query: str | None, chosen: Sequence[store.Condition]
    ) -> Selection:
        await store.lock_owner(connection, user)
        running = await store.count_running(connection, user)
        if running >= SELECTIONS_MAXIMUM:
            raise Conflict(f"{running} actions on your selections are under way; wait until one has ended.")
        await store.delete_oldest(connection, user, SELECTIONS_MAXIMUM - 1 - running)
        selection_id = self._clock.uuid7()
        number = await store.insert_selection(connection, selection_id, user, query, chosen)
        if number is None:
            raise Invalid(f"More than {AGENTS_MAXIMUM:,} agents match; narrow the filter.")
        if number == 0:
            raise Invalid("No agent is selected.")
        return await get_selection(connection, selection_id, user)

    async def get(self, selection_id: UUID, user: str) -> Selection:
        """Return a selection of a user; raises `NotFound`, also when it has expired."""
        async with self._engine.connect() as connection:
            return await get_selection(connection, selection_id, user)

    async def list(self, user: str) -> Sequence[Selection]:
        """Return a user's selections, newest first."""
        async with self._engine.connect() as connection:
            return await store.list_selections(connection, user)

    async def list_agents(self, selection: Selection, after: UUID | None, limit: int) -> Page[SelectedAgent]:
        """Return one page of the agents of a selection, by id."""
        async with self._engine.connect() as connection:
            selected = await store.list_selected(connection, selection.id, after, limit + 1)
        return page_of(selected, limit, lambda agent: str(agent.id))

    async def begin(self, selection_id: UUID, user: str, action: Action, group: str | None = None) -> None:
        """Begin an action on all agents of a selection; any node continues it.

        Raises `NotFound` for an unknown selection or group, and `Conflict` while another action on it is under way.
        """
        async with self._engine.begin() as connection:
            await get_selection(connection, selection_id, user)
            if group is not None and not await is_group(connection, group):
                raise NotFound(f"There is no group {group!r}.")
            if not await store.begin_action(connection, selection_id, user, action, group):
                raise Conflict("An action on this selection is under way; wait until it has ended.")
        self._has_begun.set()

    async def stop(self, selection_id: UUID, user: str) -> None:
        """Stop the action on a selection after the step that is under way.

        Raises `NotFound`, and `Conflict` if no action is under way.
        """
        async with self._engine.begin() as connection:
            await get_selection(connection, selection_id, user)
            if not await store.stop_action(connection, selection_id, user):
                raise Conflict("The action has ended already.")

    async def continue_actions(self) -> None:
        """Perform the actions that no other process performs, step by step, until none is left."""
        while (step := await self.perform_step()) is not None:
            if step.action == "block":
                await self._revocations.revoke_again(*map(str, step.ids))
            elif step.group is not None:
                self._has_changes.set()

    async def perform_step(self) -> Step | None:
        """Change the next agents of the action that has examined the fewest, in one transaction, and return them."""
        async with self._engine.begin() as connection:
            step = await store.take_step(connection, AGENTS_PER_STEP)
            if step is None:
                return None
            await connection.execute(SET_ACTOR, {"actor": step.user, "actor_address": step.address or ""})
            await store.record_once(connection, step.selection_id)
            changed, fault = await _change(connection, step)
            await store.end_step(connection, step.selection_id, len(step.ids), changed, fault)
        return step


async def get_selection(connection: Connection, selection_id: UUID, user: str) -> Selection:
    """Return a selection of a user; raises `NotFound`."""
    selection = await store.find_selection(connection, selection_id, user)
    if selection is None:
        raise NotFound(f"You have no selection {selection_id}; it may have expired. Select the agents again.")
    return selection


async def _change(connection: Connection, step: Step) -> tuple[int, str | None]:
    """Change the agents of a step; return how many were different before, and the fault that ends the action."""
    if step.action in {"block", "unblock"}:
        changed = await set_blocked(connection, step.ids, is_blocked=step.action == "block")
        names = [str(agent_id) for agent_id in changed]
        if step.action == "block":
            await revoke_tokens(connection, *names)
        else:
            await clear_everywhere(connection, LOGIN_FAILURES, *names)
        return len(changed), None
    group = step.group or ""
    if not await lock_group(connection, group):
        return 0, f"The group {group!r} has been deleted."
    change = insert_members if step.action == "join" else delete_members
    changed = await change(connection, group, step.ids)
    await note_moved(connection, changed)
    return len(changed), None
