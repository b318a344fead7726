"""The statements that record which version of its configuration an agent has fetched, and that show who is behind."""

from collections.abc import Collection, Sequence
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Select,
    Table,
    Uuid,
    and_,
    any_,
    bindparam,
    func,
    not_,
    select,
    text,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import aggregate_order_by

from comms_api.agents.configuration import (
    FILES_OF_AGENT,
    NO_FILES_SHA256,
    RUNNING,
    SyncStatus,
    expected_configuration,
    is_served,
    sync_status,
    version_of,
)
from comms_api.agents.store import SCANNED_MAXIMUM
from comms_api.database.connection import Connection
from comms_api.database.pages import Page, continue_after, fetch_page, find_last_examined
from comms_api.database.schema import agent_configurations, agents, group_files, group_members, staged_agents
from comms_api.files.model import AgentDrift, DriftFilter


class Fetching(msgspec.Struct, frozen=True):
    """The configuration of an agent that fetches a file, and what the server knows of its earlier fetches."""

    expected: str
    groups: list[str]
    """Its groups with files."""

    fetched: str | None
    unfetched: list[str] | None

    def unfetched_after(self, fetched_groups: Collection[str] | None) -> list[str] | None:
        """Return the groups whose files the agent lacks after a fetch, or None if it changes nothing.

        `fetched_groups` is None after a fetch of the files of all groups.
        """
        is_known = self.fetched == self.expected
        before = (self.unfetched or []) if is_known else self.groups
        after = [] if fetched_groups is None else [group for group in before if group not in fetched_groups]
        return None if is_known and after == before else after


_GROUPS_WITH_FILES = FILES_OF_AGENT.with_only_columns(group_files.c.group_name).distinct().scalar_subquery()
_WITH_CONFIGURATION = agents.outerjoin(agent_configurations, agent_configurations.c.agent_id == agents.c.id)
_FIND_FETCHING = (
    select(expected_configuration(), func.array(_GROUPS_WITH_FILES))
    .add_columns(agent_configurations.c.fetched_sha256, agent_configurations.c.unfetched)
    .select_from(_WITH_CONFIGURATION)
    .where(agents.c.id == bindparam("agent_id", type_=Uuid))
)


async def find_fetching(connection: Connection, agent_id: UUID) -> Fetching | None:
    """Return the state of an agent before a fetch; None for an unknown agent."""
    row = await connection.first(_FIND_FETCHING, {"agent_id": agent_id})
    return Fetching(*row) if row else None


_NOTE_FETCH = text("""
    INSERT INTO agent_configurations (agent_id, fetched_sha256, unfetched, fetched_at)
    SELECT id, :sha256, CAST(:unfetched AS text[]), now() FROM agents WHERE id = :agent_id
    ON CONFLICT (agent_id) DO UPDATE SET fetched_sha256 = excluded.fetched_sha256, fetched_at = excluded.fetched_at,
        unfetched = CASE WHEN agent_configurations.fetched_sha256 = excluded.fetched_sha256
            -- Another request may have fetched other files at the same time.
            THEN ARRAY(SELECT unnest(agent_configurations.unfetched) INTERSECT SELECT unnest(excluded.unfetched))
            ELSE excluded.unfetched END""")


async def note_fetch(connection: Connection, agent_id: UUID, sha256: str, unfetched: Sequence[str]) -> None:
    """Record that an agent has fetched this version of its configuration, except the files of `unfetched` groups."""
    await connection.execute(_NOTE_FETCH, {"agent_id": agent_id, "sha256": sha256, "unfetched": list(unfetched)})


_NOTE_REPORT = text("""
    INSERT INTO agent_configurations (agent_id, reported_at) SELECT id, now() FROM agents WHERE id = :agent_id
    ON CONFLICT (agent_id) DO UPDATE SET reported_at = excluded.reported_at""")


async def note_report(connection: Connection, agent_id: UUID) -> None:
    """Record that an agent has reported the version that it runs."""
    await connection.execute(_NOTE_REPORT, {"agent_id": agent_id})


_STALE = agent_configurations.alias("stale")
_WITHOUT_FILES = (
    select(_STALE.c.agent_id)
    .join(agents, agents.c.id == _STALE.c.agent_id)
    .where(agents.c.id == any_(bindparam("ids", type_=ARRAY(Uuid))), not_(FILES_OF_AGENT.exists()))
    .order_by(_STALE.c.agent_id)
    .with_for_update(of=_STALE)
)
_NOTE_WITHOUT_FILES = (
    update(agent_configurations)
    .where(agent_configurations.c.agent_id == any_(func.array(_WITHOUT_FILES.scalar_subquery())))
    .values(fetched_sha256=NO_FILES_SHA256, unfetched=[])
)


async def note_without_files(connection: Connection, ids: Collection[UUID]) -> None:
    """Record for each of these agents whose groups have no files that it has nothing to fetch."""
    await connection.execute(_NOTE_WITHOUT_FILES, {"ids": list(ids)})


def _file(table: Table) -> ColumnElement[str]:
    """Return the name of a file together with its group's; file names contain no slash."""
    return func.concat(table.c.group_name, "/", table.c.file_name)


_EVERY = group_members.alias("every")
_NAMES = func.array_agg(aggregate_order_by(_EVERY.c.group_name, _EVERY.c.group_name))


_STAGED = func.array_agg(aggregate_order_by(_file(staged_agents), _file(staged_agents)))
_CHOSEN = select(staged_agents.c.agent_id, _STAGED.label("files")).group_by(staged_agents.c.agent_id).subquery("chosen")
_CHOSEN_FILES = func.coalesce(_CHOSEN.c.files, text("'{}'::text[]"))


def _is_chosen(file: str) -> ColumnElement[bool]:
    """Return whether an agent is chosen for the staged version of a file of its group."""
    is_file = (staged_agents.c.group_name == group_members.c.group_name, staged_agents.c.file_name == file)
    return select(staged_agents).where(*is_file, staged_agents.c.agent_id == group_members.c.agent_id).exists()


def _count(group: str, staged_file: str | None) -> Select[Any]:
    """Return a statement that counts members of a group by status.

    It computes a version once for each set of groups and of staged files that the agent is chosen for.
    """
    memberships = group_members.join(_EVERY, _EVERY.c.agent_id == group_members.c.agent_id)
    members = (
        select(_EVERY.c.agent_id, _NAMES.label("names"), _CHOSEN_FILES.label("chosen"))
        .select_from(memberships.outerjoin(_CHOSEN, _CHOSEN.c.agent_id == group_members.c.agent_id))
        .where(group_members.c.group_name == group, true() if staged_file is None else _is_chosen(staged_file))
        .group_by(_EVERY.c.agent_id, _CHOSEN.c.files)
        .cte("members")
    )
    sets = select(members.c.names, members.c.chosen).distinct().cte("sets")
    is_served_to_set = is_served(_file(group_files) == any_(sets.c.chosen))
    files = select(group_files).where(group_files.c.group_name == any_(sets.c.names), is_served_to_set)
    versions = (
        select(sets.c.names, sets.c.chosen, version_of(files.correlate(sets)).label("version"))
        .cte("versions")
        .prefix_with("MATERIALIZED")
    )
    is_same_set = and_(versions.c.names == members.c.names, versions.c.chosen == members.c.chosen)
    joined = members.join(versions, is_same_set).join(agents, agents.c.id == members.c.agent_id)
    status = sync_status(versions.c.version)
    counted = select(status.label("status")).select_from(joined).subquery()
    return select(counted.c.status, func.count()).group_by(counted.c.status)


async def count_members(connection: Connection, group: str, staged_file: str | None = None) -> dict[SyncStatus, int]:
    """Return how many members of a group, or of those chosen for a staged file, have each status that occurs."""
    return {row[0]: row[1] for row in await connection.execute(_count(group, staged_file))}


_DRIFT = (
    agents.c.id.label("agent_id"),
    agents.c.name,
    sync_status(expected_configuration()).label("status"),
    expected_configuration().label("wanted"),
    RUNNING.label("reported"),
    agent_configurations.c.fetched_at,
    agent_configurations.c.reported_at,
)


async def find_drift(connection: Connection, agent_id: UUID) -> AgentDrift | None:
    """Return which version an agent runs, and since when; None for an unknown agent."""
    row = await connection.first(select(*_DRIFT).select_from(_WITH_CONFIGURATION).where(agents.c.id == agent_id))
    return AgentDrift(**row) if row else None


async def list_drift(
    connection: Connection, group: str, drift_filter: DriftFilter, after: UUID | None, limit: int
) -> Page[AgentDrift]:
    """Return a page of the members of a group by id.

    With a status, it examines at most `SCANNED_MAXIMUM` members, so it may be short and not the last.
    """
    by_id = group_members.c.agent_id
    conditions = [group_members.c.group_name == group]
    if after is not None:
        conditions.append(by_id > after)
    if drift_filter.staged is not None:
        conditions.append(_is_chosen(drift_filter.staged))
    end: UUID | None = None
    if drift_filter.status is not None:
        end = await find_last_examined(connection, by_id, conditions, SCANNED_MAXIMUM)
        conditions.append(sync_status(expected_configuration()) == drift_filter.status)
    if end is not None:
        conditions.append(by_id <= end)
    joined = _WITH_CONFIGURATION.join(group_members, by_id == agents.c.id)
    statement = select(*_DRIFT).select_from(joined).where(*conditions).order_by(by_id)
    page = await fetch_page(connection, statement, ["agent_id"], limit, lambda row: AgentDrift(**row))
    return continue_after(page, end)
