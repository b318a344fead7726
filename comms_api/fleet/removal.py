"""Remove agents that have been silent for long: first they are hidden, and shown again if they come back.

Silence counts only while nodes served, so neither an outage nor a restore hides or removes agents. At most 5 % of the
fleet is hidden, and at most 5 % removed, in a day.
"""

import logging
from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import text

from comms_api.agents.deletion import delete_agent, delete_states_left
from comms_api.database.actor import Actor, acting_as
from comms_api.database.connection import Connection, Engine
from comms_api.database.housekeeping import HOUSEKEEPING_SECONDS
from comms_api.duties.repeating import Duty
from comms_api.fleet.statuses import begin_check
from comms_api.settings import Settings

logger = logging.getLogger(__name__)

ACTOR = Actor("the removal of silent agents")
DAILY_SHARE = 0.05
DAY_SECONDS = 86_400.0
LONGEST_SECONDS = 3_650 * DAY_SECONDS


class Removal:
    """Hides agents after `remove_after_days` of silence, and removes them after `remove_hidden_days` more."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._is_enabled = settings.remove_after_days is not None
        self._silent_seconds = (settings.remove_after_days or 0.0) * DAY_SECONDS
        self._hidden_seconds = settings.remove_hidden_days * DAY_SECONDS

    def duties(self) -> Sequence[Duty]:
        """Return the duty that hides and removes agents, if the settings ask for it."""
        return [Duty("silent agents", self.perform, HOUSEKEEPING_SECONDS)] if self._is_enabled else []

    async def perform(self) -> None:
        """Remove agents that have been hidden for long enough, and hide silent agents."""
        async with self._engine.connect() as connection:
            if not await begin_check(connection, "silent agents", HOUSEKEEPING_SECONDS):
                return
        with acting_as(ACTOR):
            removed = 0
            while await self._remove_one():
                removed += 1
            async with self._engine.begin() as connection:
                hidden = await connection.change(_HIDE, {"seconds": self._silent_seconds})
        await delete_states_left(self._engine)
        if hidden or removed:
            logger.info("silent agents: %d hidden, %d removed", hidden, removed)

    async def _remove_one(self) -> bool:
        """Remove one agent; return whether an agent was due. Its states are deleted later, in steps."""
        async with self._engine.begin() as connection:
            agent_id: UUID | None = await connection.scalar(_CHOOSE, {"seconds": self._hidden_seconds})
            return agent_id is not None and await delete_agent(connection, agent_id)


def _silence(since: str) -> str:
    """Return the SQL for the time since a moment in which nodes served."""
    return f"""(now() - {since} - coalesce((
        SELECT sum(ended_at - greatest(began_at, {since})) FROM fleet_outages WHERE ended_at > {since}), '0'))"""


def _quota(kind: str) -> str:
    """Return the SQL for the number of agents that may still have this event today, at least one in a day."""
    today = "(SELECT count(*) FROM fleet_actions WHERE kind = '{}' AND at > now() - interval '1 day')"
    fleet = f"((SELECT count(*) FROM agents) + {today.format('removed')})"
    return f"greatest(0, greatest(1, floor({DAILY_SHARE} * {fleet})) - {today.format(kind)})::int"


_SEEN = "coalesce(last_seen_at, created_at)"
_HIDE = text(f"""
    WITH silent AS MATERIALIZED (
        SELECT id FROM agents
        WHERE hidden_at IS NULL AND NOT is_blocked AND {_SEEN} < now() - make_interval(secs => :seconds)
            AND {_silence(_SEEN)} > make_interval(secs => :seconds)
        ORDER BY {_SEEN}, id LIMIT {_quota("hidden")} FOR UPDATE SKIP LOCKED
    ), noted AS (
        INSERT INTO fleet_actions (kind, agent_id) SELECT 'hidden', id FROM silent
    )
    UPDATE agents SET hidden_at = now() FROM silent WHERE agents.id = silent.id""")

_CHOOSE = text(f"""
    WITH chosen AS MATERIALIZED (
        SELECT id FROM agents
        WHERE hidden_at < now() - make_interval(secs => :seconds) AND NOT is_blocked
            AND {_silence("hidden_at")} > make_interval(secs => :seconds)
        ORDER BY hidden_at, id LIMIT least(1, {_quota("removed")}) FOR UPDATE SKIP LOCKED
    ), noted AS (
        INSERT INTO fleet_actions (kind, agent_id) SELECT 'removed', id FROM chosen
    )
    SELECT id FROM chosen""")


async def delete_old_records(connection: Connection) -> None:
    """Delete what no quota and no silence needs any more."""
    await connection.execute(text("DELETE FROM fleet_actions WHERE at < now() - interval '2 days'"))
    await connection.execute(
        text("DELETE FROM fleet_outages WHERE ended_at < now() - make_interval(secs => :seconds)"),
        {"seconds": LONGEST_SECONDS},
    )
