"""SQL statements about the descriptions of agents."""

from collections.abc import Sequence
from uuid import UUID

import msgspec
from sqlalchemy import select, text

from comms_api.agents.store import EXTERNAL_TYPE
from comms_api.database.connection import Connection
from comms_api.database.schema import agents, is_one_of
from comms_api.fleet.description import StoredDescription, read_host
from comms_api.protocol import Host


class Change(msgspec.Struct, frozen=True):
    """A description that replaces the stored one."""

    agent_id: UUID
    before: StoredDescription
    after: StoredDescription

    @property
    def is_visible(self) -> bool:
        """Whether more changes than the User-Agent."""
        return msgspec.structs.replace(self.before, user_agent=self.after.user_agent) != self.after


async def find_descriptions(connection: Connection, ids: Sequence[UUID]) -> dict[UUID, StoredDescription]:
    """Return the stored descriptions of these agents, without unknown agents."""
    statement = select(agents.c.id, agents.c.type, agents.c.version, agents.c.host, agents.c.user_agent)
    rows = await connection.execute(statement.where(is_one_of(agents.c.id, ids)))
    return {
        agent_id: StoredDescription(kind, version, read_host(host) or Host(), user_agent)
        for agent_id, kind, version, host, user_agent in rows
    }


# The type is compared again, since an operator may have set the agent's key since then.
_CHANGE = text(f"""
    WITH described AS (
        SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:types AS text[]), CAST(:versions AS text[]),
            CAST(:hosts AS text[]), CAST(:user_agents AS text[]), CAST(:details AS text[]))
            AS described (id, type, version, host, user_agent, details)
    ), locked AS MATERIALIZED (
        SELECT agents.id FROM agents JOIN described USING (id) ORDER BY agents.id FOR NO KEY UPDATE OF agents
    ), changed AS (
        UPDATE agents SET version = described.version, host = CAST(described.host AS json),
            user_agent = described.user_agent,
            type = CASE WHEN '{EXTERNAL_TYPE}' IN (agents.type, described.type) THEN agents.type
                ELSE described.type END
        FROM described, locked WHERE agents.id = described.id AND agents.id = locked.id
        RETURNING agents.id, agents.name, described.details
    )
    INSERT INTO outbox (kind, agent_id, agent_name, details)
    SELECT 'described', id, name, CAST(details AS json) FROM changed WHERE details IS NOT NULL ORDER BY id""")


async def change_descriptions(connection: Connection, changes: Sequence[Change]) -> None:
    """Store descriptions, and an event for each with the description before and after."""
    parameters = {
        "ids": [change.agent_id for change in changes],
        "types": [change.after.type for change in changes],
        "versions": [change.after.version for change in changes],
        "hosts": [_json(change.after.host) for change in changes],
        "user_agents": [change.after.user_agent for change in changes],
        "details": [_details(change) if change.is_visible else None for change in changes],
    }
    await connection.execute(_CHANGE, parameters)


def _details(change: Change) -> str:
    return _json({"before": _shown(change.before), "after": _shown(change.after)})


def _shown(description: StoredDescription) -> dict[str, object]:
    return {"type": description.type, "version": description.version, "host": description.host}


def _json(content: object) -> str:
    return msgspec.json.encode(content).decode()
