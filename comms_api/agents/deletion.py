"""Delete the rows of other tables that belong to an agent."""

from uuid import UUID

from sqlalchemy import text

from comms_api.database.connection import Connection

STATES_PER_STEP = 5_000

_DELETE_STATES = text("""
    DELETE FROM states WHERE ctid = ANY(ARRAY(SELECT ctid FROM states WHERE agent_id = :agent_id LIMIT :limit))""")


async def delete_states(connection: Connection, agent_id: UUID) -> int:
    """Delete up to `STATES_PER_STEP` states of an agent; return how many."""
    return await connection.change(_DELETE_STATES, {"agent_id": agent_id, "limit": STATES_PER_STEP})


_DELETE_OWNED = [
    text(f"DELETE FROM {table} WHERE agent_id = :agent_id")
    for table in ("states", "state_sequences", "configuration_changes", "announcements", "changed_agents")
]


async def delete_owned(connection: Connection, agent_id: UUID) -> None:
    """Delete the rows of an agent that no foreign key deletes; its events and orders stay for their retention."""
    for statement in _DELETE_OWNED:
        await connection.execute(statement, {"agent_id": agent_id})
