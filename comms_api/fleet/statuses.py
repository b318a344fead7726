"""Record changes of agents' statuses and the loss of nodes as events of the fleet.

The status of an agent depends on the time when it was last seen and on whether its node is alive, so it changes without
any statement. One process at a time compares the status of each agent with the status in its last event.
"""

from collections.abc import Sequence

from sqlalchemy import func, literal, select, text
from sqlalchemy.dialects.postgresql import insert

from comms_api.agents.store import STATUS
from comms_api.database.connection import Connection, Engine
from comms_api.database.liveness import IS_HERE
from comms_api.database.schema import agents, nodes, outbox
from comms_api.duties.repeating import Duty

CHECK_SECONDS = 5.0
STEP = 2_000
"""The most statuses that one transaction records."""

OUTAGE_SECONDS = 60.0
"""After this time without a check, no node served in between: the silence of agents in it does not count."""

SHARE_OF_INTERVAL = 0.8
"""A pass that comes this early counts as on time, since duties come early at random."""


class Statuses:
    """Compares statuses with recorded ones, once in each interval for the whole cluster."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def duties(self) -> Sequence[Duty]:
        """Return the duty that records changes of statuses."""
        return [Duty("fleet statuses", self.record, CHECK_SECONDS)]

    async def record(self) -> None:
        """Record the changes since the last pass, unless another process has just done so."""
        async with self._engine.connect() as connection:
            if not await begin_status_check(connection):
                return
            await connection.execute(_RECORD_LOST_NODES)
            recorded = STEP
            while recorded == STEP:
                recorded = await connection.scalar(_RECORD_STATUSES)


_BEGIN_CHECK = """
    INSERT INTO fleet_checks (name) VALUES (:name)
    ON CONFLICT (name) DO UPDATE SET checked_at = now()
        WHERE fleet_checks.checked_at <= now() - make_interval(secs => :seconds)
    RETURNING name"""
_CHECK = text(_BEGIN_CHECK)
_CHECK_AND_RECORD_OUTAGE = text(f"""
    WITH begun AS ({_BEGIN_CHECK}), before AS (SELECT checked_at FROM fleet_checks WHERE name = :name), outage AS (
        INSERT INTO fleet_outages (began_at, ended_at) SELECT checked_at, now() FROM before, begun
        WHERE checked_at < now() - make_interval(secs => {OUTAGE_SECONDS}) ON CONFLICT DO NOTHING
    )
    SELECT name FROM begun""")


async def begin_check(connection: Connection, name: str, every_seconds: float) -> bool:
    """Return whether this process performs the check; in each interval one process of the cluster does."""
    parameters = {"name": name, "seconds": every_seconds * SHARE_OF_INTERVAL}
    return await connection.scalar(_CHECK, parameters) is not None


async def begin_status_check(connection: Connection) -> bool:
    """Begin the check of statuses as `begin_check` does; record an outage if no process has checked them for long."""
    parameters = {"name": "statuses", "seconds": CHECK_SECONDS * SHARE_OF_INTERVAL}
    return await connection.scalar(_CHECK_AND_RECORD_OUTAGE, parameters) is not None


_RECORD_LOST_NODES = nodes.update().where(~IS_HERE, nodes.c.lost_at.is_(None)).values(lost_at=func.now())

_CHANGED = (
    select(
        agents.c.id,
        agents.c.name,
        agents.c.node,
        agents.c.last_seen_at,
        agents.c.recorded_status.label("before"),
        STATUS.label("status"),
    )
    .where(agents.c.recorded_status.is_distinct_from(STATUS))
    .limit(STEP)
    .with_for_update(skip_locked=True, of=agents)
    .cte("changed")
    .prefix_with("MATERIALIZED")
)
_UPDATED = (
    agents.update()
    .values(recorded_status=_CHANGED.c.status)
    .where(agents.c.id == _CHANGED.c.id)
    .returning(agents.c.id)
    .cte("updated")
)
_ADDED = (
    insert(outbox)
    .from_select(
        ["kind", "agent_id", "agent_name", "node", "details"],
        select(
            _CHANGED.c.status,
            _CHANGED.c.id,
            _CHANGED.c.name,
            _CHANGED.c.node,
            func.json_build_object(
                *(literal("before"), _CHANGED.c.before, literal("last_seen_at"), _CHANGED.c.last_seen_at)
            ),
        ).where(_CHANGED.c.before.is_not(None)),
    )
    .returning(outbox.c.id)
    .cte("added")
)
_RECORD_STATUSES = select(func.count()).select_from(_UPDATED).add_cte(_ADDED)
