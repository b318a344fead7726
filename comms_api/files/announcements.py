"""The statements of announcements: the changed agents, their last orders, and the outcomes.

A row of `configuration_changes` is a change that no order announces yet. A row of `announcements` is the last order
that announces one; it stays until the order has succeeded, so that a failed one is ordered again. An agent may have
two: its order to change groups, and its order to fetch files.
"""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import (
    CTE,
    ColumnElement,
    Integer,
    Select,
    and_,
    bindparam,
    case,
    func,
    not_,
    select,
    text,
)

from comms_api.agents.configuration import RUNNING, expected_configuration
from comms_api.database.connection import Connection
from comms_api.database.schema import (
    NOW,
    agents,
    announcements,
    finished_orders,
    is_one_of,
    orders,
    seconds_interval,
)

FIRST_REPEAT_SECONDS = 10.0
REPEAT_SECONDS_MAXIMUM = 3_600.0
"""The pause after an order doubles with each failure, from the first to the second of these."""

OPEN_CHECK_SECONDS_MAXIMUM = 900.0
"""The longest pause between two checks of an open order; the pause equals the order's age."""


class Change(msgspec.Struct, frozen=True):
    """An agent with a changed configuration, its groups in merge order, and whether the groups have changed."""

    agent_id: UUID
    has_moved: bool
    groups: tuple[str, ...]


DELAY_MAXIMUM_FACTOR = 10
"""The longest delay of an announcement, in settle times, while changes continue."""

_DUE_AT = f"""least(changed_at + make_interval(secs => :settled_seconds),
    first_changed_at + make_interval(secs => {DELAY_MAXIMUM_FACTOR} * :settled_seconds))"""

_TAKE = text(f"""
    DELETE FROM configuration_changes WHERE agent_id IN (
        SELECT agent_id FROM configuration_changes WHERE {_DUE_AT} <= now()
        ORDER BY agent_id LIMIT :limit FOR UPDATE SKIP LOCKED)
    RETURNING agent_id, has_moved""")

_GROUPS_OF = text("""
    SELECT changed.agent_id, array_remove(array_agg(name ORDER BY precedence, name), NULL) AS groups
    FROM unnest(CAST(:ids AS uuid[])) AS changed (agent_id)
        LEFT JOIN (group_members JOIN groups ON name = group_name) USING (agent_id)
    GROUP BY changed.agent_id""")


async def take_changes(connection: Connection, settled_seconds: float, limit: int) -> list[Change]:
    """Take agents whose configuration has changed, but not within the last `settled_seconds`.

    If changes continue, an agent is taken `DELAY_MAXIMUM_FACTOR` times as long after the first of them.
    A second statement reads the groups, by a snapshot that begins after the rows are taken: whoever changes an agent's
    groups later waits for this transaction and notes a new change.
    """
    rows = await connection.execute(_TAKE, {"settled_seconds": settled_seconds, "limit": limit})
    members = await connection.execute(_GROUPS_OF, {"ids": [row.agent_id for row in rows]})
    groups = {row.agent_id: tuple(row.groups) for row in members}
    return [Change(row.agent_id, row.has_moved, groups[row.agent_id]) for row in rows]


_SETTLING = text(f"""
    SELECT greatest(0, extract(epoch FROM min({_DUE_AT}) - now())::float8)
    FROM configuration_changes HAVING count(*) > 0""")


async def find_settling_seconds(connection: Connection, settled_seconds: float) -> float | None:
    """Return the time until the first change settles; None if there are no changes."""
    seconds: float | None = await connection.scalar(_SETTLING, {"settled_seconds": settled_seconds})
    return seconds


_WITHOUT_PENDING = text("""
    SELECT changed.id FROM unnest(CAST(:ids AS uuid[])) AS changed (id) JOIN agents USING (id)
    WHERE NOT EXISTS (
        SELECT FROM orders JOIN commands USING (request_id)
        WHERE orders.agent_id = changed.id AND attempt = 0 AND offer_at < 'infinity'
            AND action_name = 'fetch-config' AND user_name = :announcer
            AND orders.expires_at > now() + make_interval(secs => timeout_seconds / 2))""")


async def without_pending_fetch(connection: Connection, ids: Sequence[UUID], announcer: str) -> list[UUID]:
    """Return the agents that have no pending `fetch-config` of the announcer, with at least half of its time left.

    Such an order makes the agent fetch the newest files.
    """
    return await connection.scalars(_WITHOUT_PENDING, {"ids": list(ids), "announcer": announcer})


_TRACK = text(f"""
    INSERT INTO announcements (agent_id, has_moved, order_id, check_at)
    SELECT agent_id, :has_moved, order_id, now() + make_interval(secs => {FIRST_REPEAT_SECONDS})
    FROM orders WHERE request_id = :request_id ORDER BY agent_id
    ON CONFLICT (agent_id, has_moved) DO UPDATE
        SET order_id = excluded.order_id, check_at = greatest(announcements.check_at, excluded.check_at)""")


async def track_orders(connection: Connection, request_id: UUID, *, has_moved: bool) -> None:
    """Record a command's orders as the last announcements to their agents; earlier failures still count."""
    await connection.execute(_TRACK, {"request_id": request_id, "has_moved": has_moved})


_STATUS = (
    select(finished_orders.c.status).where(finished_orders.c.order_id == announcements.c.order_id).scalar_subquery()
)
_OUTCOME = case(
    (agents.c.id.is_(None), "done"),
    (orders.c.attempt < bindparam("offers_maximum", type_=Integer), "open"),
    (is_one_of(_STATUS, ("success", "cancelled")), "done"),
    (and_(not_(announcements.c.has_moved), expected_configuration() == RUNNING), "done"),
    else_="failed",
)


def _check() -> Select[Any]:
    joined = announcements.outerjoin(agents, agents.c.id == announcements.c.agent_id)
    due = (
        select(announcements.c.agent_id, announcements.c.has_moved, announcements.c.order_id)
        .add_columns(_OUTCOME.label("outcome"), orders.c.created_at)
        .select_from(joined.outerjoin(orders, orders.c.order_id == announcements.c.order_id))
        .where(announcements.c.check_at <= NOW)
        .order_by(announcements.c.check_at)
        .limit(bindparam("limit", type_=Integer))
        .with_for_update(of=announcements, skip_locked=True)
        .cte("due")
    )
    found = select(due.c.agent_id, due.c.has_moved, due.c.order_id, due.c.outcome)
    done = announcements.delete().where(_is_same(due), due.c.outcome == "done").cte("deleted")
    return found.add_cte(done, _postpone_others(due))


def _postpone_others(due: CTE) -> CTE:
    has_failed = due.c.outcome == "failed"
    failures = announcements.c.failures + case((has_failed, 1), else_=0)
    doubled = func.least(FIRST_REPEAT_SECONDS * func.power(2, func.least(failures, 20)), REPEAT_SECONDS_MAXIMUM)
    age_seconds: ColumnElement[Any] = func.extract("epoch", NOW - due.c.created_at)
    as_long_again = func.greatest(FIRST_REPEAT_SECONDS, func.least(age_seconds, OPEN_CHECK_SECONDS_MAXIMUM))
    check_at = NOW + seconds_interval(case((has_failed, doubled), else_=as_long_again))
    changed = announcements.update().values(failures=failures, check_at=check_at)
    return changed.where(_is_same(due), due.c.outcome != "done").cte("postponed")


def _is_same(due: CTE) -> ColumnElement[bool]:
    return and_(announcements.c.agent_id == due.c.agent_id, announcements.c.has_moved == due.c.has_moved)


_CHECK = _check()


class Failed(msgspec.Struct, frozen=True):
    """An announcement whose order was not executed."""

    agent_id: UUID
    has_moved: bool
    order_id: UUID


async def check_announcements(connection: Connection, offers_maximum: int, limit: int) -> tuple[int, Sequence[Failed]]:
    """Delete completed announcements and postpone the others; return how many were due, and the failed ones.

    One is complete when its order has succeeded or an operator has cancelled it, when the agent runs its files, and
    when the agent is deleted. It has failed when its order has ended otherwise, or was offered
    `offers_maximum` times without an end.
    """
    rows = await connection.execute(_CHECK, {"offers_maximum": offers_maximum, "limit": limit})
    return len(rows), [Failed(*columns) for *columns, outcome in rows if outcome == "failed"]
