"""Publish versions of group files, to all agents of a group at once or to a part of them first.

A staged version is stored next to the current one. The chosen agents get it: a row of `staged_agents` for each, and for
nobody else, so an agent that joins the group later gets the current version until more agents are chosen. A file has at
most one staged version. Until that is promoted or aborted, the file cannot be published, rolled back or deleted.
"""

import asyncio

from comms_api.agents.configuration_changes import note_changed, note_files_changed, note_promoted
from comms_api.database.connection import Connection, Engine
from comms_api.errors import Conflict, Invalid, NotFound
from comms_api.files import drift, store
from comms_api.files.model import GroupFile, NewVersion, Stage
from comms_api.groups.store import lock_group


async def lock(connection: Connection, group: str) -> None:
    """Keep a group and its files from being changed by others until the transaction ends; raises `NotFound`."""
    if not await lock_group(connection, group):
        raise NotFound(f"There is no group {group!r}.")


async def publish(connection: Connection, new: NewVersion) -> GroupFile:
    """Store a file's next version, and record the change for the agents that get it; needs the lock of the group.

    If the content is that of the current version, or of a staged one for the same part of the agents, this changes
    nothing and returns that version. Raises `Conflict` while another version is staged.
    """
    staged = await store.find_staged(connection, new.group, new.name)
    if staged is not None and (staged.sha256, staged.staged_percent) == (new.content.sha256, new.percent):
        return staged
    _check_unstaged(staged)
    current = await store.find_current(connection, new.group, new.name)
    if current is not None and current.sha256 == new.content.sha256:
        return current
    stored = await store.insert_version(connection, new)
    if new.percent is None:
        await note_files_changed(connection, new.group)
    else:
        await _choose(connection, stored)
    return stored


async def delete(connection: Connection, group: str, name: str) -> None:
    """Delete a file, and record the change; needs the lock of the group. Raises `NotFound`, and `Conflict` as above."""
    _check_unstaged(await store.find_staged(connection, group, name))
    if not await store.delete_current(connection, group, name):
        raise NotFound(f"The group {group!r} has no file {name!r}.")
    await note_files_changed(connection, group)


def _check_unstaged(staged: GroupFile | None) -> None:
    if staged is not None:
        raise Conflict(
            f"Version {staged.version} of the file {staged.name!r} is staged for {staged.staged_percent} % of the group"
            f" {staged.group!r}; promote it or abort it first."
        )


async def _choose(connection: Connection, staged: GroupFile) -> None:
    await note_changed(connection, await store.choose_agents(connection, staged))


class Stages:
    """The staged versions of files; sets `has_changes` after each commit that changes what agents should run."""

    def __init__(self, engine: Engine, has_changes: asyncio.Event) -> None:
        self._engine = engine
        self._has_changes = has_changes

    async def show(self, group: str, name: str) -> Stage:
        """Return a file's staged version and how many agents run it; raises `NotFound`."""
        async with self._engine.connect() as connection:
            return await _show(connection, _found(await store.find_staged(connection, group, name), group, name))

    async def widen(self, group: str, name: str, percent: int) -> Stage:
        """Choose more agents for a staged version; those chosen before stay. The same percentage counts new members.

        Raises `NotFound`, and `Invalid` for a smaller percentage.
        """
        async with self._engine.begin() as connection:
            await lock(connection, group)
            staged = _found(await store.find_staged(connection, group, name), group, name)
            if staged.staged_percent is not None and percent < staged.staged_percent:
                raise Invalid(f"percent: {percent} is less than {staged.staged_percent}; abort the stage to shrink it")
            widened = _found(await store.widen_stage(connection, group, name, percent), group, name)
            await _choose(connection, widened)
            stage = await _show(connection, widened)
        self._has_changes.set()
        return stage

    async def promote(self, group: str, name: str) -> GroupFile:
        """Make a staged version current for all agents; raises `NotFound`."""
        async with self._engine.begin() as connection:
            await lock(connection, group)
            _found(await store.find_staged(connection, group, name), group, name)
            await store.delete_current(connection, group, name)
            promoted = _found(await store.end_stage(connection, group, name, is_current=True), group, name)
            await note_promoted(connection, group, name)
            await store.forget_chosen(connection, group, name)
        self._has_changes.set()
        return promoted

    async def abort(self, group: str, name: str) -> None:
        """Give the chosen agents the current version again; the staged one stays among the versions.

        Raises `NotFound`.
        """
        async with self._engine.begin() as connection:
            await lock(connection, group)
            _found(await store.end_stage(connection, group, name, is_current=False), group, name)
            await note_changed(connection, await store.forget_chosen(connection, group, name))
        self._has_changes.set()


def _found(staged: GroupFile | None, group: str, name: str) -> GroupFile:
    if staged is None:
        raise NotFound(f"No version of the file {name!r} is staged in the group {group!r}.")
    return staged


async def _show(connection: Connection, staged: GroupFile) -> Stage:
    counts = await drift.count_members(connection, staged.group, staged.name)
    return Stage(
        group=staged.group,
        name=staged.name,
        version=staged.version,
        percent=staged.staged_percent or 0,
        user=staged.user,
        created_at=staged.created_at,
        agents=sum(counts.values()),
        **counts,
    )
