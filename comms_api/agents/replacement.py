"""Let an agent take the id or the name of another that has been silent for long enough."""

from uuid import UUID

import msgspec

from comms_api.agents import store
from comms_api.database.connection import Connection
from comms_api.errors import Conflict
from comms_api.revocations.store import revoke_tokens
from comms_api.settings import Settings

DAY_SECONDS = 86_400.0
NEVER_SECONDS = 100 * 365 * DAY_SECONDS


class ReplacementRule(msgspec.Struct, frozen=True):
    """The period of silence after which an agent may be replaced."""

    silent_seconds: float

    @classmethod
    def of(cls, settings: Settings) -> "ReplacementRule":
        """Return the period from the settings; without `reenroll_after_days`, no agent is ever replaced."""
        days = settings.reenroll_after_days
        return cls(NEVER_SECONDS if days is None else days * DAY_SECONDS)

    async def delete_silent(self, connection: Connection, agent_id: UUID, name: str) -> list[str]:
        """Delete the agents that have this id or name, revoke their tokens, and return their ids.

        Raises `Conflict` unless all have been silent long enough. The caller revokes the tokens again after its commit.
        """
        holders = await store.find_holders(connection, agent_id, name, self.silent_seconds)
        if not all(holders.values()):
            raise Conflict(f"An agent with the id {agent_id} or the name {name!r} exists.", code=1708)
        for holder in holders:
            await store.delete_agent(connection, holder)
            await revoke_tokens(connection, str(holder))
        return [str(holder) for holder in holders]
