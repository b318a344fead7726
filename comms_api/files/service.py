"""Store the files of groups, and serve agents the files of their groups."""

import asyncio
from collections.abc import Sequence
from uuid import UUID

import msgspec

from comms_api.agents.configuration_changes import note_files_changed, push_to_agent, push_to_node
from comms_api.agents.store import update_agent
from comms_api.database.connection import Connection, Engine
from comms_api.database.pages import Page
from comms_api.errors import Invalid, NotFound, TooLarge, Unavailable
from comms_api.fairness.budgets import ByteBudget
from comms_api.fairness.executors import BoundedExecutor
from comms_api.files import drift, stages, store
from comms_api.files.configuration import is_yaml, merge_files, read_yaml
from comms_api.files.diff import unified_diff
from comms_api.files.model import (
    COMPARED_BYTES_MAXIMUM,
    EMPTY,
    FILE_BYTES_MAXIMUM,
    MERGED,
    MERGED_BYTES_MAXIMUM,
    AgentDrift,
    Configuration,
    Content,
    DriftFilter,
    FileDrift,
    FileName,
    GroupDrift,
    GroupFile,
    NewVersion,
    Rollback,
    StoredVersion,
    content_of,
)
from comms_api.files.running import compare_files, list_known_versions
from comms_api.files.sharing import SharedContents, Source
from comms_api.groups.store import is_group

DIFF_THREADS = 1
DIFF_CALLS_MAXIMUM = 8
"""The most differences that a node computes or queues at once; further ones are 503."""

YAML_THREADS = 1
YAML_CALLS_MAXIMUM = 32
"""The most documents that a node reads, merges or queues at once; further ones are 503."""


class Files:
    """The files of the groups; sets `has_changes` after each commit that changes what agents should run."""

    def __init__(self, engine: Engine, has_changes: asyncio.Event) -> None:
        self._engine = engine
        self._has_changes = has_changes
        self._shared = SharedContents()
        self._yaml = BoundedExecutor("yaml", YAML_THREADS, YAML_CALLS_MAXIMUM)
        self._diffs = BoundedExecutor("diffs", DIFF_THREADS, DIFF_CALLS_MAXIMUM)

    async def put(self, group: str, name: str, content: bytes, user: str, percent: int | None = None) -> GroupFile:
        """Store a file's next version and announce it to the group's agents; the same content again changes nothing.

        With `percent`, only this part of the agents gets it at first. Raises `NotFound` for an unknown group, `Invalid`
        for an invalid name or YAML, `TooLarge`, and `Conflict` while another version is staged.
        """
        await self._check(name, content, user)
        async with self._engine.begin() as connection:
            await stages.lock(connection, group)
            stored = await stages.publish(connection, NewVersion(group, name, content_of(content), user, percent))
        self._has_changes.set()
        return stored

    async def _check(self, name: str, content: bytes, user: str) -> None:
        try:
            msgspec.convert(name, FileName)
        except msgspec.ValidationError as error:
            raise Invalid(f"name: {error}") from None
        if name == MERGED:
            raise Invalid(f"name: {MERGED} is reserved for the merge of the groups' files")
        if len(content) > FILE_BYTES_MAXIMUM:
            raise TooLarge(f"The file is larger than {FILE_BYTES_MAXIMUM} bytes.")
        if is_yaml(name):
            await self._yaml.run(user, lambda: read_yaml(name, content))

    async def delete(self, group: str, name: str) -> None:
        """Delete a file from a group; its versions stay. Raises `NotFound`, and `Conflict` while one is staged."""
        async with self._engine.begin() as connection:
            await stages.lock(connection, group)
            await stages.delete(connection, group, name)
        self._has_changes.set()

    async def list(self, group: str, name: str | None = None) -> Sequence[GroupFile]:
        """Return the current and staged files of a group, or the versions of one file, newest first.

        Raises `NotFound`.
        """
        async with self._engine.begin() as connection:
            await stages.lock(connection, group)
            found = await store.list_versions(connection, group, name)
        if name is not None and not found:
            raise NotFound(f"The group {group!r} has no file {name!r}.")
        return found

    async def roll_back(self, group: str, name: str, rollback: Rollback, user: str) -> GroupFile:
        """Store the content of an earlier version as the next one and announce it, as `put` does.

        If that content is current, this changes nothing and returns the current version. Raises `NotFound`, and
        `Conflict` while another version is staged.
        """
        async with self._engine.begin() as connection:
            await stages.lock(connection, group)
            earlier = await _get_version(connection, group, name, rollback.version)
            [content] = await store.load_contents(connection, [earlier])
            new = NewVersion(group, name, Content(earlier.sha256, content), user, rollback.percent)
            stored = await stages.publish(connection, new)
        self._has_changes.set()
        return stored

    async def compare(self, group: str, name: str, old: int, new: int | None, user: str) -> str:
        """Return the difference of two versions of a file, by default from `old` to the current one.

        Raises `NotFound`, and `TooLarge` for files that are too large to compare.
        """
        async with self._engine.connect() as connection:
            versions = [await _get_version(connection, group, name, version) for version in (old, new)]
            if any(version.size > COMPARED_BYTES_MAXIMUM for version in versions):
                raise TooLarge(
                    f"Files larger than {COMPARED_BYTES_MAXIMUM} bytes are not compared; fetch the versions."
                )
            contents = [(await store.load_contents(connection, [version]))[0] for version in versions]
        before, after = zip([f"{group}/{name}@{version.version}" for version in versions], contents, strict=True)
        return await self._diffs.run(user, lambda: unified_diff(before, after))

    async def push(self, group: str) -> int:
        """Have the agents of a group fetch their files again; return how many. Raises `NotFound`."""
        async with self._engine.begin() as connection:
            await stages.lock(connection, group)
            pushed = await note_files_changed(connection, group)
            await store.record_push(connection, "groups", group, pushed)
        self._has_changes.set()
        return pushed

    async def push_to_agent(self, agent_id: UUID) -> int:
        """Have an agent fetch its files again; return 1. Raises `NotFound`."""
        async with self._engine.begin() as connection:
            pushed = await push_to_agent(connection, agent_id)
            if not pushed:
                raise NotFound(f"There is no agent {agent_id}.")
            await store.record_push(connection, "agents", str(agent_id), pushed)
        self._has_changes.set()
        return pushed

    async def push_to_node(self, node: str) -> int:
        """Have the agents that a node saw last fetch their files again; return how many. Raises `NotFound`."""
        async with self._engine.begin() as connection:
            if not await store.is_node(connection, node):
                raise NotFound(f"There is no node {node!r}.")
            pushed = await push_to_node(connection, node)
            await store.record_push(connection, "nodes", node, pushed)
        self._has_changes.set()
        return pushed

    async def find(self, group: str, name: str, version: int | None) -> Source:
        """Return the source of a file's version, by default the current one; raises `NotFound`."""
        async with self._engine.connect() as connection:
            return self._source(await _get_version(connection, group, name, version))

    async def read(self, source: Source, budget: ByteBudget) -> Content:
        """Return a file's content, and share the copy of other downloads in progress.

        A new copy counts in the budget while it is in use. Raises `Unavailable` if there is no room.
        """
        return await self._shared.get(source, budget)

    def _source(self, version: StoredVersion) -> Source:
        async def load() -> Content:
            [content] = await self._load([version])
            return Content(version.sha256, content)

        return Source(version.sha256, version.size, load, version.sha256)

    async def _load(self, versions: Sequence[StoredVersion]) -> Sequence[bytes]:
        async with self._engine.connect() as connection:
            contents = await store.load_contents(connection, versions)
        if len(contents) < len(versions):
            raise Unavailable("The files have just changed; send the request again.")
        return contents

    async def configuration(self, agent_id: UUID) -> Configuration:
        """Return the files that an agent should run, and whether it does; raises `NotFound`."""
        async with self._engine.connect() as connection:
            found = await drift.find_drift(connection, agent_id)
            files = await store.list_agent_hashes(connection, agent_id)
        if found is None:
            raise NotFound(f"There is no agent {agent_id}.")
        return Configuration(files=files, in_sync=found.status == "in_sync", **msgspec.structs.asdict(found))

    async def compare_running(self, agent_id: UUID, running: str | None) -> Sequence[FileDrift] | None:
        """Compare the file versions that an agent should run with those it runs; None if the latter are unknown.

        `running` is the hash of the files that it runs.
        """
        async with self._engine.connect() as connection:
            return compare_files(await list_known_versions(connection, agent_id), running)

    async def count_drift(self, group: str) -> GroupDrift:
        """Return how many agents of a group run their configuration; raises `NotFound`."""
        async with self._engine.connect() as connection:
            await _check_group(connection, group)
            counts = await drift.count_members(connection, group)
        return GroupDrift(group, sum(counts.values()), **counts)

    async def list_drift(
        self, group: str, drift_filter: DriftFilter, after: UUID | None, limit: int
    ) -> Page[AgentDrift]:
        """Return a page of a group's agents by id; raises `NotFound`."""
        async with self._engine.connect() as connection:
            await _check_group(connection, group)
            return await drift.list_drift(connection, group, drift_filter, after, limit)

    async def fetch(self, agent_id: UUID, name: str, *, is_head: bool = False) -> Source:
        """Return the source of a file of the agent's groups, or of their merged YAML, and record that it was fetched.

        A request for the head of the answer is no fetch. `GROUP.yml` is an empty map if the agent's group has no such
        file. Nothing is written unless the file is new to the agent. Raises `NotFound`.
        """
        async with self._engine.connect() as connection:
            # Read this first, so that a version that begins later counts as not fetched.
            before = await drift.find_fetching(connection, agent_id)
            source, groups = await self._find_for_agent(connection, agent_id, name)
            if not is_head and before is not None and (unfetched := before.unfetched_after(groups)) is not None:
                await drift.note_fetch(connection, agent_id, before.expected, unfetched)
        return source

    async def _find_for_agent(
        self, connection: Connection, agent_id: UUID, name: str
    ) -> tuple[Source, set[str] | None]:
        """Return a file's source, and the groups whose files it contains; None for all of the agent's groups."""
        if name == MERGED:
            return self._merged(agent_id, await store.list_agent_yaml(connection, agent_id)), None
        found = await store.find_agent_version(connection, agent_id, name)
        group = name.removesuffix(".yml")
        if found is not None:
            return self._source(found), {found.group, group}
        if group != name and await store.is_member(connection, agent_id, group):
            return Source(EMPTY.sha256, len(EMPTY.content), _load_empty), {group}
        raise NotFound("None of the agent's groups has such a file.", code=2705)

    async def find_merged(self, agent_id: UUID) -> Source:
        """Return the merged YAML of an agent's groups, in order of precedence and then of name; the last wins.

        Raises `TooLarge` if the files are too large in total.
        """
        async with self._engine.connect() as connection:
            return self._merged(agent_id, await store.list_agent_yaml(connection, agent_id))

    def _merged(self, agent_id: UUID, files: Sequence[StoredVersion]) -> Source:
        size = sum(file.size for file in files)
        if size > MERGED_BYTES_MAXIMUM:
            raise TooLarge(f"The agent's groups have more than {MERGED_BYTES_MAXIMUM} bytes of YAML together.")

        async def load() -> Content:
            named = list(zip([file.name for file in files], await self._load(files), strict=True))
            return content_of(await self._yaml.run(agent_id, lambda: merge_files(named)))

        key = content_of("\n".join(f"{file.name} {file.sha256}" for file in files).encode()).sha256
        return Source(f"merged {key}", size, load)

    async def report(self, agent_id: UUID, sha256: str) -> None:
        """Store the hash of the files that an agent runs."""
        async with self._engine.begin() as connection:
            await update_agent(connection, agent_id, {"configuration": sha256})
            await drift.note_report(connection, agent_id)


async def _load_empty() -> Content:
    return EMPTY


async def _check_group(connection: Connection, group: str) -> None:
    if not await is_group(connection, group):
        raise NotFound(f"There is no group {group!r}.")


async def _get_version(connection: Connection, group: str, name: str, version: int | None) -> StoredVersion:
    """Return a version of a file, by default the current one; raises `NotFound`."""
    found = await store.find_version(connection, group, name, version)
    if found is None:
        version_text = "" if version is None else f" of version {version}"
        raise NotFound(f"The group {group!r} has no file {name!r}{version_text}.")
    return found
