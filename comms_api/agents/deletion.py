"""Delete agents, and later their states, in steps that any node can continue.

The transaction that deletes an agent notes it. Each step locks the agent as a stateful batch does, so neither disturbs
the other. A batch that was under way may add states after the last step. So the note is kept for longer than any
request takes, and a duty looks for such states. Batches pay nothing for this.
"""

from uuid import UUID

from sqlalchemy import text

from comms_api.agents import store
from comms_api.database.connection import Connection, Engine
from comms_api.revocations.store import revoke_tokens

STATES_PER_STEP = 5_000
NOTED_SECONDS = 3_600.0
"""Much longer than a batch takes from the check of its token to its commit."""

_EXPIRE_ORDERS = text("""
    UPDATE orders SET expires_at = now() WHERE order_id = ANY(ARRAY(
        SELECT order_id FROM orders WHERE agent_id = :agent_id AND expires_at > now() ORDER BY order_id FOR UPDATE))""")
_NOTE = text("""
    INSERT INTO deleted_agents (agent_id) VALUES (:agent_id)
    ON CONFLICT (agent_id) DO UPDATE SET deleted_at = now(), is_cleared = false""")
_IS_CLEARED = text("SELECT is_cleared FROM deleted_agents WHERE agent_id = :agent_id")
_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended(CAST(CAST(:agent_id AS uuid) AS text), 0))")

# The agent may have enrolled again under this id: then the states are its own.
_DELETE_STATES = text("""
    DELETE FROM states WHERE ctid = ANY(ARRAY(SELECT ctid FROM states WHERE agent_id = :agent_id LIMIT :limit))
        AND NOT EXISTS (SELECT FROM agents WHERE id = :agent_id)""")
_CLEAR = text("""
    WITH cleared AS (
        UPDATE deleted_agents SET is_cleared = true WHERE agent_id = :agent_id
    )
    DELETE FROM state_sequences WHERE agent_id = :agent_id AND NOT EXISTS (SELECT FROM agents WHERE id = :agent_id)""")
_FIND_UNCLEARED = text("""
    SELECT agent_id FROM deleted_agents WHERE NOT is_cleared OR (
        NOT EXISTS (SELECT FROM agents WHERE id = agent_id) AND (
            EXISTS (SELECT FROM states WHERE states.agent_id = deleted_agents.agent_id)
            OR EXISTS (SELECT FROM state_sequences WHERE state_sequences.agent_id = deleted_agents.agent_id)))""")
_FORGET = text(f"""
    DELETE FROM deleted_agents
    WHERE is_cleared AND deleted_at < now() - make_interval(secs => {NOTED_SECONDS})""")


async def delete_agent(connection: Connection, agent_id: UUID) -> bool:
    """Delete an agent, let its open orders expire, and revoke its tokens; return whether it existed.

    Its states are deleted later, in steps. Its events and ended orders stay for their retention.
    """
    await store.lock_agent(connection, agent_id)
    # Before the deletion, which locks the agent's configuration: a report locks orders first, and then that.
    await connection.execute(_EXPIRE_ORDERS, {"agent_id": agent_id})
    if not await store.delete_agent(connection, agent_id):
        return False
    await connection.execute(_NOTE, {"agent_id": agent_id})
    await revoke_tokens(connection, str(agent_id))
    return True


async def has_states_left(connection: Connection, agent_id: UUID) -> bool:
    """Return whether the states of a deleted agent with this id are still being deleted."""
    return await connection.scalar(_IS_CLEARED, {"agent_id": agent_id}) is False


async def delete_states(engine: Engine, agent_id: UUID) -> None:
    """Delete the states of a deleted agent; another node may do so at the same time."""
    deleted = STATES_PER_STEP
    while deleted == STATES_PER_STEP:
        async with engine.begin() as connection:
            await connection.execute(_LOCK, {"agent_id": agent_id})
            deleted = await connection.change(_DELETE_STATES, {"agent_id": agent_id, "limit": STATES_PER_STEP})
            if deleted < STATES_PER_STEP:
                await connection.execute(_CLEAR, {"agent_id": agent_id})


async def delete_states_left(engine: Engine) -> None:
    """Delete the states of all deleted agents, and then the old notes."""
    async with engine.connect() as connection:
        uncleared = await connection.scalars(_FIND_UNCLEARED)
    for agent_id in uncleared:
        await delete_states(engine, agent_id)
    async with engine.begin() as connection:
        await connection.execute(_FORGET)
