"""Keep group files and hand agents their own."""

from collections.abc import Sequence
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from comms_api.agents.changes import note_files_changed
from comms_api.agents.store import update_agent
from comms_api.errors import Invalid, NotFound, TooLarge
from comms_api.executors import BoundedExecutor
from comms_api.files import store
from comms_api.files.configuration import is_yaml, merge_files, read_yaml
from comms_api.files.model import (
    EMPTY,
    FILE_BYTES_MAXIMUM,
    MERGED,
    MERGED_BYTES_MAXIMUM,
    Configuration,
    Content,
    FileName,
    GroupFile,
    content_of,
)
from comms_api.groups.store import lock_group

YAML_THREADS = 1
YAML_CALLS_MAXIMUM = 32
"""The most documents that are read, merged or waiting on a node; beyond it, 503."""


class Files:
    """The files of the groups."""

    def __init__(self, engine: AsyncEngine) -> None:
        """Take the engine; YAML has threads of its own."""
        self._engine = engine
        self._yaml = BoundedExecutor("yaml", YAML_THREADS, YAML_CALLS_MAXIMUM)

    # -- for operators

    async def put(self, group: str, name: str, content: bytes, user: str) -> GroupFile:
        """Store a file's next version, which its group's agents are told of; the same content again changes nothing.

        Raises `NotFound` for the group, `Invalid` for a name or YAML that is wrong, `TooLarge`.
        """
        await self._check(name, content)
        async with self._engine.begin() as connection:
            await _lock(connection, group)
            stored = await store.insert_version(connection, group, name, content_of(content), user)
            if stored is None:
                return (await store.list_versions(connection, group, name))[0]
            await note_files_changed(connection, group)
        return stored

    async def _check(self, name: str, content: bytes) -> None:
        try:
            msgspec.convert(name, FileName)
        except msgspec.ValidationError as error:
            raise Invalid(f"name: {error}") from None
        if name == MERGED:
            raise Invalid(f"name: {MERGED} is the name of what the groups' files are merged into")
        if len(content) > FILE_BYTES_MAXIMUM:
            raise TooLarge(f"The file is larger than {FILE_BYTES_MAXIMUM} bytes.")
        if is_yaml(name):
            await self._yaml.run(lambda: read_yaml(name, content))

    async def delete(self, group: str, name: str) -> None:
        """Take a file from a group; its versions stay. Raises `NotFound`."""
        async with self._engine.begin() as connection:
            await _lock(connection, group)
            if not await store.delete_current(connection, group, name):
                raise NotFound(f"The group {group!r} has no file {name!r}.")
            await note_files_changed(connection, group)

    async def list(self, group: str, name: str | None = None) -> Sequence[GroupFile]:
        """Return the current files of a group, or the versions of one, the newest first; raises `NotFound`."""
        async with self._engine.begin() as connection:
            await _lock(connection, group)
            found = await store.list_versions(connection, group, name)
        if name is not None and not found:
            raise NotFound(f"The group {group!r} has no file {name!r}.")
        return found

    async def get(self, group: str, name: str, version: int | None) -> Content:
        """Return what a version of a file holds, by default the current one; raises `NotFound`."""
        async with self._engine.connect() as connection:
            content = await store.find_content(connection, group, name, version)
        if content is None:
            raise NotFound(f"The group {group!r} has no such file {name!r}.")
        return content

    async def configuration(self, agent_id: UUID) -> Configuration:
        """Return what an agent should run and what it says it runs; raises `NotFound`."""
        async with self._engine.connect() as connection:
            hashes = await store.find_hashes(connection, agent_id)
            files = await store.list_own_hashes(connection, agent_id)
        if hashes is None:
            raise NotFound(f"There is no agent {agent_id}.")
        return Configuration(agent_id, files, *hashes)

    # -- for agents

    async def get_own(self, agent_id: UUID, name: str) -> Content:
        """Return a file of the agent's own groups, or all of their YAML merged; raises `NotFound`.

        `GROUP.yml` of an own group that has no such file is an empty map.
        """
        if name == MERGED:
            return await self.merged(agent_id)
        async with self._engine.connect() as connection:
            content = await store.find_own_content(connection, agent_id, name)
            group, suffix = name[:-4], name[-4:]
            if content is None and suffix == ".yml" and await store.is_member(connection, agent_id, group):
                content = EMPTY
        if content is None:
            raise NotFound("None of the agent's groups has such a file.", code=2705)
        return content

    async def merged(self, agent_id: UUID) -> Content:
        """Return the YAML of an agent's groups as one: by precedence and then by name, the last has the last word.

        Raises `TooLarge` for files that are too large together.
        """
        async with self._engine.connect() as connection:
            files = await store.list_own_yaml(connection, agent_id, MERGED_BYTES_MAXIMUM)
        contents = tuple((name, content) for name, content in files if content is not None)
        if len(contents) < len(files):
            raise TooLarge(f"The agent's groups have more than {MERGED_BYTES_MAXIMUM} bytes of YAML together.")
        return content_of(await self._yaml.run(lambda: merge_files(contents)))

    async def report(self, agent_id: UUID, sha256: str) -> None:
        """Note the hash of the files that an agent runs."""
        async with self._engine.begin() as connection:
            await update_agent(connection, agent_id, {"configuration": sha256})


async def _lock(connection: AsyncConnection, group: str) -> None:
    if not await lock_group(connection, group):
        raise NotFound(f"There is no group {group!r}.")
