"""The statements of a diagnosis; each reads a bounded number of rows by an index."""

from collections.abc import Collection
from datetime import datetime
from uuid import UUID

import msgspec
from sqlalchemy import Text, cast, func, literal, select, text

from comms_api.agents.keys import LOGIN_FAILURES
from comms_api.database.connection import Connection
from comms_api.database.schema import agents, is_one_of, key_lookups, login_failures, revocations
from comms_api.diagnosis.model import ORDERS_SHOWN, FailedLogins, KeyRefusal, OpenOrder
from comms_api.lockouts.store import digest_of

NETWORKS_SHOWN = 10


class Facts(msgspec.Struct, frozen=True):
    """The database's time, and the facts about an agent that `Agent` lacks."""

    at: datetime
    has_next_key: bool
    revoked_at: datetime | None


async def find_facts(connection: Connection, agent_id: UUID) -> Facts | None:
    """Return the facts about an agent, or None if it does not exist."""
    revoked_at = select(revocations.c.revoked_at).where(revocations.c.subject == str(agent_id)).scalar_subquery()
    columns = (func.now().label("at"), agents.c.next_key_hash.is_not(None).label("has_next_key"))
    row = await connection.first(select(*columns, revoked_at.label("revoked_at")).where(agents.c.id == agent_id))
    return Facts(**row) if row else None


_OPEN_ORDERS = text(f"""
    SELECT order_id, request_id, action_name AS action, orders.priority, attempt,
        CASE WHEN orders.expires_at <= now() THEN 'expired'
            WHEN offer_at = 'infinity' THEN
                CASE phase WHEN 'paused' THEN 'paused' WHEN 'stopped' THEN 'stopped' ELSE 'rollout' END
            WHEN offer_at <= now() THEN 'due'
            WHEN attempt > 0 THEN 'leased'
            ELSE 'start' END AS reason,
        phase_reason, orders.created_at, nullif(offer_at, 'infinity') AS offer_at, orders.expires_at
    FROM orders JOIN commands USING (request_id)
    WHERE orders.agent_id = :agent_id ORDER BY orders.priority DESC, position LIMIT {ORDERS_SHOWN + 1}""")


async def list_open_orders(connection: Connection, agent_id: UUID) -> list[OpenOrder]:
    """Return the first open orders of an agent, in the order of their offers: at most one more than are shown."""
    return [OpenOrder(**row) for row in await connection.execute(_OPEN_ORDERS, {"agent_id": agent_id})]


async def list_failed_logins(connection: Connection, agent_id: UUID) -> list[FailedLogins]:
    """Return the latest failed logins of an agent."""
    columns = login_failures.c
    locked_until = func.nullif(columns.locked_until, literal("-infinity").cast(columns.locked_until.type))
    statement = (
        select(columns.network, columns.failures, columns.failed_at, locked_until.label("locked_until"))
        .where(columns.who == digest_of(LOGIN_FAILURES, str(agent_id)))
        .order_by(columns.failed_at.desc())
        .limit(NETWORKS_SHOWN)
    )
    return [FailedLogins(**row) for row in await connection.execute(statement)]


async def list_key_refusals(connection: Connection, names: Collection[str]) -> list[KeyRefusal]:
    """Return the refusals of key requests for an agent, by its ids, that the nodes still remember."""
    columns = key_lookups.c
    message = func.coalesce(columns.message, cast("", Text)).label("message")
    statement = select(columns.code, message, columns.until).where(
        is_one_of(columns.question, [f"id:{name}" for name in names]),
        columns.code.is_not(None),
        columns.until > func.now(),
    )
    return [KeyRefusal(**row) for row in await connection.execute(statement)]
