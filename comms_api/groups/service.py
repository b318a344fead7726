"""Create, fill and delete groups."""

import asyncio
from collections.abc import Collection
from uuid import UUID

from comms_api.agents.configuration_changes import note_group_left, note_moved, note_reordered
from comms_api.agents.naming import get_ids
from comms_api.database.connection import Engine
from comms_api.database.pages import Page, page_of
from comms_api.errors import Conflict, NotFound
from comms_api.groups import store
from comms_api.groups.model import Group, GroupChange, NewGroup


class Groups:
    """The groups of the fleet; sets `has_changes` after each commit that changes what agents should run."""

    def __init__(self, engine: Engine, has_changes: asyncio.Event) -> None:
        self._engine = engine
        self._has_changes = has_changes

    async def create(self, group: NewGroup) -> None:
        """Create an empty group; raises `Conflict` when it exists."""
        async with self._engine.begin() as connection:
            if not await store.insert_group(connection, group.name, group.precedence):
                raise Conflict(f"A group {group.name!r} already exists.")

    async def change(self, name: str, change: GroupChange) -> None:
        """Set the precedence of a group; raises `NotFound`."""
        async with self._engine.begin() as connection:
            if not await store.update_group(connection, name, change.precedence):
                raise NotFound(f"There is no group {name!r}.")
            await note_reordered(connection, name)
        self._has_changes.set()

    async def list(self, after: str | None, limit: int) -> Page[Group]:
        """Return one page of groups, by name."""
        async with self._engine.connect() as connection:
            groups = await store.list_groups(connection, after, limit + 1)
        return page_of(groups, limit, lambda group: group.name)

    async def get(self, name: str) -> Group:
        """Return a group; raises `NotFound`."""
        async with self._engine.connect() as connection:
            group = await store.find_group(connection, name)
        if group is None:
            raise NotFound(f"There is no group {name!r}.")
        return group

    async def delete(self, name: str) -> None:
        """Delete a group but not its agents; raises `NotFound`."""
        async with self._engine.begin() as connection:
            await store.lock_group(connection, name)  # first, as in every other operation, to avoid deadlocks
            await note_group_left(connection, name)
            if not await store.delete_group(connection, name):
                raise NotFound(f"There is no group {name!r}.")
        self._has_changes.set()

    async def add(self, name: str, agents: Collection[str]) -> int:
        """Add all of these agents, or none; raises `NotFound`, which names an unknown agent or group."""
        async with self._engine.begin() as connection:
            if not await store.lock_group(connection, name):
                raise NotFound(f"There is no group {name!r}.")
            ids = await get_ids(connection, agents)
            if unknown := await store.find_unknown_agents(connection, ids):
                raise NotFound(f"There is no agent {min(unknown)}; no agent was added.")
            added = await store.insert_members(connection, name, ids)
            await note_moved(connection, added)
        self._has_changes.set()
        return len(added)

    async def remove(self, name: str, agent_id: UUID) -> None:
        """Remove one agent from a group; raises `NotFound`."""
        async with self._engine.begin() as connection:
            if not await store.delete_members(connection, name, [agent_id]):
                raise NotFound(f"The agent {agent_id} is not a member of {name!r}.")
            await note_moved(connection, [agent_id])
        self._has_changes.set()
