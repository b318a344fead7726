"""SQL statements about selections; each function takes a connection, runs one statement, and returns plain values."""

from collections.abc import Sequence
from typing import TypeAlias
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Integer,
    Text,
    Uuid,
    and_,
    bindparam,
    case,
    cast,
    func,
    insert,
    literal,
    not_,
    or_,
    select,
    text,
)

from comms_api.agents.store import STATUS
from comms_api.database.actor import actor_parameters
from comms_api.database.connection import Connection
from comms_api.database.schema import agents, seconds_interval, selections, users
from comms_api.selections.model import AGENTS_MAXIMUM, Action, SelectedAgent, Selection, Step

Condition: TypeAlias = ColumnElement[bool]

KEPT_SECONDS = 3_600.0
"""The time after which a selection expires, from its creation or from the beginning of its last action."""

_IS_RUNNING = and_(selections.c.action.is_not(None), selections.c.ended_at.is_(None))
_IS_KEPT = or_(selections.c.expires_at > func.now(), _IS_RUNNING)
_COLUMNS = [
    selections.c[name] if name != "group" else selections.c.group_name.label("group")
    for name in Selection.__struct_fields__
]


async def lock_owner(connection: Connection, user: str) -> None:
    """Make a user's new selections wait for one another until this transaction ends."""
    await connection.execute(select(users.c.name).where(users.c.name == user).with_for_update(key_share=True))


async def count_running(connection: Connection, user: str) -> int:
    """Return how many of a user's selections have an action under way."""
    statement = select(func.count()).where(selections.c.user_name == user, _IS_RUNNING)
    running: int = await connection.scalar(statement)
    return running


async def delete_oldest(connection: Connection, user: str, kept: int) -> None:
    """Delete a user's selections except those with an action under way and the `kept` newest others."""
    idle = (selections.c.user_name == user, not_(_IS_RUNNING))
    newest = select(selections.c.id).where(*idle).order_by(selections.c.id.desc()).limit(kept)
    await connection.execute(selections.delete().where(*idle, selections.c.id.not_in(newest)))


async def insert_selection(
    connection: Connection, selection_id: UUID, user: str, query: str | None, chosen: Sequence[Condition]
) -> int | None:
    """Store the ids of the agents that meet the conditions; return their number, or None if there are too many."""
    found = select(agents.c.id).where(*chosen).limit(AGENTS_MAXIMUM + 1).subquery()
    ids = func.coalesce(func.array_agg(found.c.id), text("'{}'::uuid[]")).label("ids")
    counted = select(ids).select_from(found).subquery()
    number = func.cardinality(counted.c.ids)
    expires_at = func.now() + seconds_interval(KEPT_SECONDS)
    row = select(literal(selection_id, Uuid), literal(user), cast(query, Text), number, counted.c.ids, expires_at)
    columns = ["id", "user_name", "query", "agents", "agent_ids", "expires_at"]
    statement = insert(selections).from_select(columns, row.where(number <= AGENTS_MAXIMUM))
    stored: int | None = await connection.scalar(statement.returning(selections.c.agents))
    return stored


async def find_selection(connection: Connection, selection_id: UUID, user: str) -> Selection | None:
    """Return a selection of a user; None if it has expired."""
    found = select(*_COLUMNS).where(selections.c.id == selection_id, selections.c.user_name == user, _IS_KEPT)
    row = await connection.first(found)
    return Selection(**row) if row else None


async def list_selections(connection: Connection, user: str) -> list[Selection]:
    """Return the selections of a user, newest first."""
    kept = select(*_COLUMNS).where(selections.c.user_name == user, _IS_KEPT).order_by(selections.c.id.desc())
    return [Selection(**row) for row in await connection.execute(kept)]


async def list_selected(
    connection: Connection, selection_id: UUID, after: UUID | None, limit: int
) -> list[SelectedAgent]:
    """Return agents of a selection by id, starting after `after`."""
    ids = select(func.unnest(selections.c.agent_ids).label("id")).where(selections.c.id == selection_id).subquery()
    page = select(ids.c.id).order_by(ids.c.id).limit(limit)
    shown = (page if after is None else page.where(ids.c.id > after)).subquery()
    joined = shown.outerjoin(agents, agents.c.id == shown.c.id)
    columns = (shown.c.id, agents.c.name, STATUS.label("status"), agents.c.is_blocked)
    rows = await connection.execute(select(*columns).select_from(joined).order_by(shown.c.id))
    return [
        SelectedAgent(row.id, row.name, row.status if row.name is not None else None, row.is_blocked) for row in rows
    ]


_BEGIN = text(f"""
    WITH begun AS (
        UPDATE selections SET action = :action, group_name = :group_name, address = nullif(:actor_address, ''),
            examined = 0, changed = 0, fault = NULL, ended_at = NULL,
            expires_at = greatest(expires_at, now() + make_interval(secs => {KEPT_SECONDS}))
        WHERE id = :selection_id AND user_name = :user_name AND expires_at > now()
            AND (action IS NULL OR ended_at IS NOT NULL)
        RETURNING id, agents, query
    )
    INSERT INTO audit (id, actor, address, operation, subject, key, after)
    SELECT uuid7(), :actor, nullif(:actor_address, ''), 'update', 'selections', id::text,
        json_strip_nulls(json_build_object('action', CAST(:action AS text), 'group', CAST(:group_name AS text),
            'agents', agents, 'query', query))
    FROM begun RETURNING key""")


async def begin_action(
    connection: Connection, selection_id: UUID, user: str, action: Action, group: str | None
) -> bool:
    """Begin an action on a selection, and record it in the audit trail.

    Return False if the selection has expired or another action on it is under way.
    """
    parameters = {
        "selection_id": selection_id,
        "user_name": user,
        "action": action,
        "group_name": group,
        **actor_parameters(),
    }
    return await connection.scalar(_BEGIN, parameters) is not None


# The position is that of the locked row: the statement's snapshot may be older than the last step of another process.
_TAKE = text("""
    WITH chosen AS MATERIALIZED (
        SELECT id, user_name, address, action, group_name, examined FROM selections
        WHERE action IS NOT NULL AND ended_at IS NULL
        ORDER BY examined LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED)
    SELECT id, chosen.user_name, chosen.address, chosen.action, chosen.group_name,
        agent_ids[chosen.examined + 1 : chosen.examined + :limit]
    FROM chosen JOIN selections USING (id)""")


async def take_step(connection: Connection, limit: int) -> Step | None:
    """Lock the action that has examined the fewest agents, and return its next agents; None if there is no action.

    It skips actions that other processes perform.
    """
    row = await connection.first(_TAKE, {"limit": limit})
    return Step(*row) if row else None


_SET_SELECTION = select(
    func.set_config("comms_api.selection", bindparam("selection", type_=Text), text("true")),
)


async def record_once(connection: Connection, selection_id: UUID) -> None:
    """Keep the changes of this transaction out of the audit trail, which has one entry for the whole action."""
    await connection.execute(_SET_SELECTION, {"selection": str(selection_id)})


async def end_step(connection: Connection, selection_id: UUID, examined: int, changed: int, fault: str | None) -> None:
    """Add the numbers of a step; the action ends with its last agent, or with a fault."""
    position = selections.c.examined + literal(examined, Integer)
    is_over = or_(literal(fault, Text).is_not(None), position >= selections.c.agents)
    statement = selections.update().where(selections.c.id == selection_id, _IS_RUNNING)
    values = {
        "examined": position,
        "changed": selections.c.changed + literal(changed, Integer),
        "fault": literal(fault, Text),
        "ended_at": case((is_over, func.now())),
    }
    await connection.execute(statement.values(values))


async def stop_action(connection: Connection, selection_id: UUID, user: str) -> bool:
    """End an action before all agents are examined; return whether it was under way."""
    statement = selections.update().where(selections.c.id == selection_id, _IS_RUNNING)
    statement = statement.values(fault=f"{user} has stopped it.", ended_at=func.now())
    return await connection.change(statement) > 0


async def delete_expired(connection: Connection) -> None:
    """Delete the selections that have expired."""
    await connection.execute(selections.delete().where(not_(_IS_KEPT)))
