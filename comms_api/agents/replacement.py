"""Let an agent take the id or the name of another: after silence, after an age, or because its key was lost."""

from uuid import UUID

import msgspec

from comms_api.agents import store
from comms_api.agents.deletion import delete_agent
from comms_api.agents.store import Holder
from comms_api.database.connection import Connection
from comms_api.errors import Conflict
from comms_api.revocations.store import revoke_tokens
from comms_api.settings import Settings

DAY_SECONDS = 86_400.0
NEVER_SECONDS = 100 * 365 * DAY_SECONDS


class ReplacementRule(msgspec.Struct, frozen=True):
    """The rule that decides whether an agent may be replaced.

    An agent must have been enrolled for `age_seconds`. It must also have been silent for `silent_seconds`, or, with
    `on_key_mismatch`, not be active; the latter needs an operator or an enrollment token.
    """

    silent_seconds: float
    age_seconds: float
    on_key_mismatch: bool

    @classmethod
    def of(cls, settings: Settings) -> "ReplacementRule":
        """Return the rule from the settings; without `reenroll_after_days`, silence is no reason."""
        days = settings.reenroll_after_days
        return cls(
            silent_seconds=NEVER_SECONDS if days is None else days * DAY_SECONDS,
            age_seconds=settings.reenroll_minimum_age_days * DAY_SECONDS,
            on_key_mismatch=settings.reenroll_on_key_mismatch,
        )

    async def delete_holders(
        self, connection: Connection, agent_id: UUID, name: str, *, is_authorised: bool
    ) -> list[str]:
        """Delete the agents that have this id or name, revoke their tokens, and return their ids.

        `is_authorised` says whether an operator or an enrollment token asks for it. Raises `Conflict` unless all may be
        replaced. The caller revokes the tokens again after its commit.
        """
        holders = await store.find_holders(connection, agent_id, name, self.silent_seconds, self.age_seconds)
        if not all(self._admits(holder, is_authorised=is_authorised) for holder in holders):
            raise Conflict(f"An agent with the id {agent_id} or the name {name!r} exists.", code=1708)
        ids = {holder.id for holder in holders}
        for holder_id in ids - {agent_id}:
            await delete_agent(connection, holder_id)
        if agent_id in ids:  # an agent that takes its id again keeps its states and orders
            await store.delete_agent(connection, agent_id)
            await revoke_tokens(connection, str(agent_id))
        return [str(holder.id) for holder in holders]

    def _admits(self, holder: Holder, *, is_authorised: bool) -> bool:
        may_have_lost_its_key = self.on_key_mismatch and is_authorised and not holder.is_active
        return holder.is_old and (holder.is_silent or may_have_lost_its_key)
