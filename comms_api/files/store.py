"""The statements of group files."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, Select, Text, any_, func, literal, select, text, update

from comms_api.database.connection import Connection
from comms_api.database.schema import group_files, group_members, groups, nodes
from comms_api.files.configuration import YAML_SUFFIXES
from comms_api.files.model import VERSIONS_KEPT, Content, GroupFile, StoredVersion
from comms_api.protocol import ExpectedFile

_SHOWN = (
    group_files.c.group_name,
    group_files.c.file_name,
    group_files.c.version,
    group_files.c.sha256,
    func.octet_length(group_files.c.content),
    group_files.c.is_current,
    group_files.c.user_name,
    group_files.c.created_at,
)


async def insert_version(
    connection: Connection, group: str, name: str, content: Content, user: str
) -> GroupFile | None:
    """Add the next version of a file, under a lock of its group; return it, or None if the content is unchanged."""
    of_file = (group_files.c.group_name == group, group_files.c.file_name == name)
    latest = await connection.first(
        select(group_files.c.version, group_files.c.sha256, group_files.c.is_current)
        .where(*of_file)
        .order_by(group_files.c.version.desc())
        .limit(1)
    )
    if latest is not None and latest.is_current and latest.sha256 == content.sha256:
        return None
    version = latest.version + 1 if latest else 1
    await delete_current(connection, group, name)
    values = {
        "group_name": group,
        "file_name": name,
        "version": version,
        "sha256": content.sha256,
        "content": content.content,
        "is_current": True,
        "user_name": user,
    }
    [row] = await connection.execute(group_files.insert().values(values).returning(*_SHOWN))
    await connection.execute(group_files.delete().where(*of_file, group_files.c.version <= version - VERSIONS_KEPT))
    return GroupFile(*row)


async def delete_current(connection: Connection, group: str, name: str) -> bool:
    """Make no version of a file current; return whether one was."""
    statement = (
        update(group_files)
        .where(group_files.c.group_name == group, group_files.c.file_name == name, group_files.c.is_current)
        .values(is_current=False)
    )
    return await connection.change(statement) > 0


async def list_versions(connection: Connection, group: str, name: str | None) -> list[GroupFile]:
    """Return the versions of a file, newest first; without a name, the current files of a group."""
    statement = select(*_SHOWN).where(group_files.c.group_name == group)
    if name is None:
        statement = statement.where(group_files.c.is_current).order_by(group_files.c.file_name)
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
    statement = select(*_STORED).where(group_files.c.group_name == group, group_files.c.file_name == name, is_version)
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
        .where(group_members.c.agent_id == agent_id, group_files.c.file_name == name, group_files.c.is_current)
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
        .where(group_members.c.agent_id == agent_id, group_files.c.is_current)
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
