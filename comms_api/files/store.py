"""The statements of group files."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Executable,
    Select,
    Text,
    any_,
    func,
    literal,
    not_,
    or_,
    select,
    text,
    update,
)

from comms_api.agents.configuration import IS_SERVED_TO_MEMBER
from comms_api.database.connection import Connection
from comms_api.database.schema import group_files, group_members, groups, nodes, staged_agents
from comms_api.files.configuration import YAML_SUFFIXES
from comms_api.files.model import VERSIONS_KEPT, GroupFile, NewVersion, StoredVersion
from comms_api.protocol import ExpectedFile

_IS_STAGED = group_files.c.staged_percent.is_not(None)
_SHOWN = (
    group_files.c.group_name,
    group_files.c.file_name,
    group_files.c.version,
    group_files.c.sha256,
    func.octet_length(group_files.c.content),
    group_files.c.is_current,
    group_files.c.user_name,
    group_files.c.created_at,
    group_files.c.staged_percent,
)


async def insert_version(connection: Connection, new: NewVersion) -> GroupFile:
    """Add the next version of a file, under a lock of its group, and make it current unless it is staged."""
    last = select(func.coalesce(func.max(group_files.c.version), 0)).where(*_is_file(new.group, new.name))
    version = await connection.scalar(last) + 1
    if new.percent is None:
        await delete_current(connection, new.group, new.name)
    values = {
        "group_name": new.group,
        "file_name": new.name,
        "version": version,
        "sha256": new.content.sha256,
        "content": new.content.content,
        "is_current": new.percent is None,
        "user_name": new.user,
        "staged_percent": new.percent,
    }
    [row] = await connection.execute(group_files.insert().values(values).returning(*_SHOWN))
    is_old = (not_(group_files.c.is_current), group_files.c.version <= version - VERSIONS_KEPT)
    await connection.execute(group_files.delete().where(*_is_file(new.group, new.name), *is_old))
    return GroupFile(*row)


def _is_file(group: str, name: str) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return group_files.c.group_name == group, group_files.c.file_name == name


async def find_current(connection: Connection, group: str, name: str) -> GroupFile | None:
    """Return the current version of a file."""
    return await _find(connection, select(*_SHOWN).where(*_is_file(group, name), group_files.c.is_current))


async def find_staged(connection: Connection, group: str, name: str) -> GroupFile | None:
    """Return the staged version of a file."""
    return await _find(connection, select(*_SHOWN).where(*_is_file(group, name), _IS_STAGED))


async def _find(connection: Connection, statement: Executable) -> GroupFile | None:
    row = await connection.first(statement)
    return GroupFile(*row) if row else None


async def widen_stage(connection: Connection, group: str, name: str, percent: int) -> GroupFile | None:
    """Set the part of the agents that a staged version is for; None if none is staged."""
    statement = update(group_files).where(*_is_file(group, name), _IS_STAGED).values(staged_percent=percent)
    return await _find(connection, statement.returning(*_SHOWN))


async def end_stage(connection: Connection, group: str, name: str, *, is_current: bool) -> GroupFile | None:
    """Make a staged version current, or only a version like earlier ones; None if none is staged."""
    ended = {"staged_percent": None, "is_current": is_current}
    statement = update(group_files).where(*_is_file(group, name), _IS_STAGED).values(ended)
    return await _find(connection, statement.returning(*_SHOWN))


_CHOOSE = text("""
    WITH members AS (
        SELECT group_members.agent_id, staged_agents.agent_id IS NOT NULL AS is_chosen
        FROM group_members LEFT JOIN staged_agents ON staged_agents.group_name = group_members.group_name
            AND staged_agents.agent_id = group_members.agent_id AND file_name = :name
        WHERE group_members.group_name = :group),
    chosen AS (
        SELECT agent_id FROM members WHERE NOT is_chosen
        -- Each version begins with other agents.
        ORDER BY sha256(convert_to(concat(agent_id, ' ', :group, '/', :name, '@', CAST(:version AS int)), 'UTF8'))
        LIMIT (SELECT greatest(0, ceil(count(*) * :percent / 100.0) - count(*) FILTER (WHERE is_chosen)) FROM members))
    INSERT INTO staged_agents (group_name, file_name, agent_id) SELECT :group, :name, agent_id FROM chosen
    RETURNING agent_id""")


async def choose_agents(connection: Connection, staged: GroupFile) -> list[UUID]:
    """Choose members of a group for a staged version until its part of them is chosen; return the new ones."""
    parameters = {"group": staged.group, "name": staged.name, "version": staged.version}
    return await connection.scalars(_CHOOSE, parameters | {"percent": staged.staged_percent})


async def forget_chosen(connection: Connection, group: str, name: str) -> list[UUID]:
    """Delete and return the choice of agents for a staged version."""
    is_file = (staged_agents.c.group_name == group, staged_agents.c.file_name == name)
    return await connection.scalars(staged_agents.delete().where(*is_file).returning(staged_agents.c.agent_id))


async def delete_current(connection: Connection, group: str, name: str) -> bool:
    """Make no version of a file current; return whether one was."""
    statement = update(group_files).where(*_is_file(group, name), group_files.c.is_current).values(is_current=False)
    return await connection.change(statement) > 0


async def list_versions(connection: Connection, group: str, name: str | None) -> list[GroupFile]:
    """Return the versions of a file, newest first; without a name, the current and staged files of a group."""
    statement = select(*_SHOWN).where(group_files.c.group_name == group)
    if name is None:
        is_listed = or_(group_files.c.is_current, _IS_STAGED)
        statement = statement.where(is_listed).order_by(group_files.c.file_name, group_files.c.version)
    else:
        statement = statement.where(group_files.c.file_name == name).order_by(group_files.c.version.desc())
    return [GroupFile(*row) for row in await connection.execute(statement)]


_STORED = (
    group_files.c.group_name,
    group_files.c.file_name,
    group_files.c.version,
    group_files.c.sha256,
    func.octet_length(group_files.c.content),
)


async def find_version(connection: Connection, group: str, name: str, version: int | None) -> StoredVersion | None:
    """Return a version of a file, by default the current one; None when there is none."""
    is_version = group_files.c.is_current if version is None else group_files.c.version == version
    statement = select(*_STORED).where(*_is_file(group, name), is_version)
    row = await connection.first(statement)
    return StoredVersion(*row) if row else None


_LOAD_CONTENTS = text("""
    SELECT content FROM group_files
    JOIN unnest(CAST(:groups AS text[]), CAST(:names AS text[]), CAST(:versions AS int[]))
        WITH ORDINALITY AS asked (group_name, file_name, version, place) USING (group_name, file_name, version)
    ORDER BY place""")


async def load_contents(connection: Connection, versions: Sequence[StoredVersion]) -> list[bytes]:
    """Return the contents of versions, in order; fewer if some have been deleted."""
    parameters = {
        "groups": [version.group for version in versions],
        "names": [version.name for version in versions],
        "versions": [version.version for version in versions],
    }
    return await connection.scalars(_LOAD_CONTENTS, parameters)


_OF_AGENT = group_files.join(groups, groups.c.name == group_files.c.group_name).join(
    group_members, group_members.c.group_name == groups.c.name
)


async def find_agent_version(connection: Connection, agent_id: UUID, name: str) -> StoredVersion | None:
    """Return a file of an agent's groups; of several, the file of the group with the highest precedence."""
    statement = (
        select(*_STORED)
        .select_from(_OF_AGENT)
        .where(group_members.c.agent_id == agent_id, group_files.c.file_name == name, IS_SERVED_TO_MEMBER)
        .order_by(groups.c.precedence.desc(), groups.c.name.desc())
        .limit(1)
    )
    row = await connection.first(statement)
    return StoredVersion(*row) if row else None


async def is_member(connection: Connection, agent_id: UUID, group: str) -> bool:
    """Return whether an agent is a member of a group."""
    statement = select(group_members.c.agent_id).where(
        group_members.c.agent_id == agent_id, group_members.c.group_name == group
    )
    return await connection.scalar(statement) is not None


def _agent_files(agent_id: UUID, *columns: Any) -> Select[Any]:
    """Return a statement that selects the files of an agent's groups, the overriding group last."""
    return (
        select(*columns)
        .select_from(_OF_AGENT)
        .where(group_members.c.agent_id == agent_id, IS_SERVED_TO_MEMBER)
        .order_by(groups.c.precedence, groups.c.name, group_files.c.file_name)
    )


async def list_agent_yaml(connection: Connection, agent_id: UUID) -> list[StoredVersion]:
    """Return the YAML files of an agent's groups, in ascending precedence."""
    suffixes = literal([f"%{suffix}" for suffix in YAML_SUFFIXES], ARRAY(Text))
    statement = _agent_files(agent_id, *_STORED).where(group_files.c.file_name.like(any_(suffixes)))
    return [StoredVersion(*row) for row in await connection.execute(statement)]


async def list_agent_hashes(connection: Connection, agent_id: UUID) -> list[ExpectedFile]:
    """Return the files of an agent's groups, the overriding group last."""
    columns = (group_files.c.group_name, group_files.c.file_name, group_files.c.sha256)
    return [ExpectedFile(*row) for row in await connection.execute(_agent_files(agent_id, *columns))]


async def is_node(connection: Connection, name: str) -> bool:
    """Return whether a node of this name is in the registry."""
    return await connection.scalar(select(nodes.c.name).where(nodes.c.name == name).limit(1)) is not None


_RECORD_PUSH = text("""
    INSERT INTO audit (id, actor, address, operation, subject, key, after) VALUES (
        uuid7(), current_setting('comms_api.actor'), nullif(current_setting('comms_api.address', true), ''), 'update',
        :subject, :key, json_build_object('pushed', CAST(:agents AS int)))""")


async def record_push(connection: Connection, subject: str, key: str, agents: int) -> None:
    """Record in the audit trail that files were pushed to agents; `subject` is `agents`, `groups` or `nodes`."""
    await connection.execute(_RECORD_PUSH, {"subject": subject, "key": key, "agents": agents})
