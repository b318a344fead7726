"""Record the agents whose configuration a transaction changes; an order soon announces the change to each."""

from collections.abc import Collection, Sequence
from uuid import UUID

from sqlalchemy import text

from comms_api.database.connection import Connection

_NOTE = """
    INSERT INTO configuration_changes (agent_id, has_moved, changed_at)
    SELECT agent_id, {has_moved}, clock_timestamp() FROM ({agents}) AS changed (agent_id) ORDER BY agent_id
    ON CONFLICT (agent_id) DO UPDATE SET changed_at = excluded.changed_at,
        has_moved = configuration_changes.has_moved OR excluded.has_moved"""
_MEMBERS = "SELECT agent_id FROM group_members WHERE group_name = :group"
_FILES_CHANGED = text(_NOTE.format(has_moved=False, agents=_MEMBERS))
_PROMOTED = text(
    _NOTE.format(
        has_moved=False,
        agents=f"""{_MEMBERS} AND NOT EXISTS (
            SELECT FROM staged_agents
            WHERE staged_agents.group_name = :group AND file_name = :file
                AND staged_agents.agent_id = group_members.agent_id)""",
    )
)
_PUSHED_TO_AGENT = text(_NOTE.format(has_moved=False, agents="SELECT id FROM agents WHERE id = :agent_id"))
_PUSHED_TO_NODE = text(_NOTE.format(has_moved=False, agents="SELECT id FROM agents WHERE node = :node"))
_GROUP_LEFT = text(_NOTE.format(has_moved=True, agents=_MEMBERS))
_REORDERED = text(
    _NOTE.format(
        has_moved=True,
        agents=f"""{_MEMBERS} AND EXISTS (
            SELECT FROM group_members AS other
            WHERE other.agent_id = group_members.agent_id AND other.group_name <> :group)""",
    )
)
_FAILED = """
    SELECT agent_id, bool_or(failed.has_moved) AS has_moved
    FROM unnest(CAST(:ids AS uuid[]), CAST(:has_moved AS boolean[])) AS failed (agent_id, has_moved)
    GROUP BY agent_id"""
_AGAIN = text(_NOTE.format(has_moved="changed.has_moved", agents=_FAILED))
_IDS = "SELECT * FROM unnest(CAST(:ids AS uuid[]))"
_CHANGED = text(_NOTE.format(has_moved=False, agents=_IDS))
_MOVED = text(_NOTE.format(has_moved=True, agents=_IDS))


async def note_files_changed(connection: Connection, group: str) -> int:
    """Record for each member of a group that the files of the group have changed; return how many."""
    return await connection.change(_FILES_CHANGED, {"group": group})


async def note_promoted(connection: Connection, group: str, file: str) -> None:
    """Record that a file has changed for the members of a group that are not chosen for its staged version."""
    await connection.execute(_PROMOTED, {"group": group, "file": file})


async def note_changed(connection: Connection, ids: Collection[UUID]) -> None:
    """Record that files of these agents have changed."""
    await connection.execute(_CHANGED, {"ids": list(ids)})


async def push_to_agent(connection: Connection, agent_id: UUID) -> int:
    """Have an agent fetch its files as if they had changed; return 0 if there is no such agent."""
    return await connection.change(_PUSHED_TO_AGENT, {"agent_id": agent_id})


async def push_to_node(connection: Connection, node: str) -> int:
    """Have the agents that a node saw last fetch their files as if these had changed; return how many."""
    return await connection.change(_PUSHED_TO_NODE, {"node": node})


async def note_group_left(connection: Connection, group: str) -> None:
    """Record that the members of a group are about to leave it."""
    await connection.execute(_GROUP_LEFT, {"group": group})


async def note_reordered(connection: Connection, group: str) -> None:
    """Record that a group's precedence has changed for its members that have other groups as well."""
    await connection.execute(_REORDERED, {"group": group})


async def note_moved(connection: Connection, ids: Collection[UUID]) -> None:
    """Record that the groups of these agents have changed."""
    await connection.execute(_MOVED, {"ids": list(ids)})


async def note_again(connection: Connection, failed: Sequence[tuple[UUID, bool]]) -> None:
    """Record the changes of failed announcements again: each agent, and whether its groups had changed."""
    parameters = {"ids": [agent_id for agent_id, _ in failed], "has_moved": [has_moved for _, has_moved in failed]}
    await connection.execute(_AGAIN, parameters)
