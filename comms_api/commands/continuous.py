"""Give continuous commands orders for the agents that match them later, once for each agent.

Triggers queue every agent that is enrolled, joins a group, or gets another name, version, host or label, in the
transaction of the change. A duty takes agents from the queue, matches them with the continuous commands and adds their
orders, all in one transaction. So a node that dies loses nothing, and no agent gets a second order.

The submission of a continuous command and the duty exclude each other. Otherwise the duty could take an agent that the
submission does not see yet, before it sees the command itself.
"""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, Uuid, any_, bindparam, literal, select, text
from sqlalchemy.dialects.postgresql import insert

from comms_api.commands.submission.targets import recipients, target_parameters
from comms_api.database.connection import Connection, Engine, Row
from comms_api.database.housekeeping import HOUSEKEEPING_SECONDS
from comms_api.database.listener import Notifier
from comms_api.database.schema import commands, continuous_recipients, is_one_of
from comms_api.duties.repeating import Duty
from comms_api.errors import Conflict
from comms_api.orders.dispatcher import ORDERS_CHANNEL
from comms_api.orders.model import order_bytes
from comms_api.orders.queries import submitted_target
from comms_api.orders.turns import share_turns
from comms_api.settings import Settings

CONTINUOUS_MAXIMUM = 100
"""The maximum number of continuous commands of a fleet: each changed agent is matched with all of them."""

CONTINUOUS_LOCK = 0x636F6E74696E75
EXTEND_SECONDS = 0.25
AGENTS_AT_ONCE = 500
FORGET_STEP = 5_000

_IS_ACTIVE = text("continues_until > now() AND phase <> 'cancelled'")
_COUNT = text("SELECT count(*) FROM commands WHERE continues_until > now() AND phase <> 'cancelled'")


async def begin_continuous(connection: Connection, added: int) -> None:
    """Exclude the duty until this transaction ends; raises `Conflict` if there would be too many commands."""
    await connection.take_turns(CONTINUOUS_LOCK)
    if await connection.scalar(_COUNT) + added > CONTINUOUS_MAXIMUM:
        raise Conflict(f"A fleet has at most {CONTINUOUS_MAXIMUM} continuous commands; cancel one first.")


_RECORD = text("""
    INSERT INTO continuous_recipients (request_id, agent_id)
    SELECT request_id, agent_id FROM orders WHERE request_id = ANY(CAST(:ids AS uuid[]))""")


async def record_recipients(connection: Connection, request_ids: Sequence[UUID]) -> None:
    """Record the recipients of commands that this transaction has added."""
    await connection.execute(_RECORD, {"ids": list(request_ids)})


_HAS_CHANGES = text("SELECT EXISTS (SELECT FROM changed_agents)")
_TRY = text(f"SELECT pg_try_advisory_xact_lock({CONTINUOUS_LOCK})")
_TAKE = text("""
    DELETE FROM changed_agents WHERE number = ANY(ARRAY(SELECT number FROM changed_agents ORDER BY number LIMIT :limit))
    RETURNING agent_id""")


async def _take_changes(connection: Connection) -> list[UUID]:
    """Take the oldest changed agents from the queue; none while another node or a submission holds the lock."""
    if not await connection.scalar(_TRY):
        return []
    return await connection.scalars(_TAKE, {"limit": AGENTS_AT_ONCE})


async def _lock_commands(connection: Connection) -> list[Row]:
    """Return the continuous commands, whose phases stay until this transaction ends."""
    ids = await connection.scalars(select(commands.c.request_id).where(_IS_ACTIVE))
    if not ids:
        return []
    await share_turns(connection, ids)
    statement = select(commands).where(is_one_of(commands.c.request_id, ids), _IS_ACTIVE)
    return await connection.execute(statement.order_by(commands.c.request_id))


async def _add_recipients(connection: Connection, command: Row, changed: Sequence[UUID]) -> list[UUID]:
    """Record the changed agents that match a command for the first time; return them."""
    target = submitted_target(command)
    recipient = recipients(target).subquery("recipient")
    is_changed = recipient.c.agent_id == any_(bindparam("changed", type_=ARRAY(Uuid)))
    statement = (
        insert(continuous_recipients)
        .from_select(
            ["request_id", "agent_id"],
            select(literal(command.request_id, Uuid), recipient.c.agent_id).where(is_changed),
        )
        .on_conflict_do_nothing()
        .returning(continuous_recipients.c.agent_id)
    )
    parameters: dict[str, Any] = {"changed": list(set(changed)), **target_parameters(target)}
    return await connection.scalars(statement, parameters)


_ADD_ORDERS = text("""
    WITH added AS (
        INSERT INTO orders (order_id, request_id, agent_id, agent_groups, priority, bytes, offer_at, expires_at)
        SELECT uuid7(), request_id, agent_id,
            ARRAY(SELECT group_name FROM group_members WHERE group_members.agent_id = recipient.agent_id ORDER BY 1),
            priority, :bytes,
            CASE WHEN phase IN ('paused', 'stopped') THEN 'infinity' ELSE greatest(now(), starts_at) END,
            CASE WHEN phase IN ('paused', 'stopped') THEN now() + make_interval(secs => :held_seconds)
                ELSE greatest(now(), starts_at) + make_interval(secs => timeout_seconds) END
        FROM commands CROSS JOIN unnest(CAST(:agents AS uuid[])) AS recipient (agent_id)
        WHERE request_id = :id
    )
    UPDATE commands SET orders = orders + cardinality(CAST(:agents AS uuid[])) WHERE request_id = :id""")

_FORGET = text("""
    DELETE FROM continuous_recipients WHERE (request_id, agent_id) IN (
        SELECT request_id, agent_id FROM commands JOIN continuous_recipients USING (request_id)
        WHERE continues_until IS NOT NULL AND (continues_until <= now() OR phase = 'cancelled') LIMIT :limit)""")


async def forget_recipients(connection: Connection) -> int:
    """Delete recipients of commands that are no longer continuous; return how many, at most `FORGET_STEP`."""
    return await connection.change(_FORGET, {"limit": FORGET_STEP})


class ContinuousCommands:
    """The duties of continuous commands; any node may perform them at any time."""

    def __init__(self, engine: Engine, notifier: Notifier, settings: Settings) -> None:
        self._engine = engine
        self._notifier = notifier
        self._held_seconds = settings.order_timeout_maximum_seconds

    def duties(self) -> list[Duty]:
        """Return the duties that add orders and forget the recipients of ended commands."""
        return [
            Duty("continuous commands", self.extend, EXTEND_SECONDS),
            Duty("recipients of continuous commands", self._forget, HOUSEKEEPING_SECONDS),
        ]

    async def extend(self) -> int:
        """Add the orders for agents that have changed; return how many."""
        total, taken = 0, AGENTS_AT_ONCE
        while taken == AGENTS_AT_ONCE:
            async with self._engine.connect() as connection:
                if not await connection.scalar(_HAS_CHANGES):
                    break
                async with connection.transaction():
                    changed = await _take_changes(connection)
                    ordered = await self._order(connection, changed)
            taken = len(changed)
            total += len(ordered)
            if ordered:
                self._notifier.notify(ORDERS_CHANNEL, {str(agent_id) for agent_id in ordered})
        return total

    async def _order(self, connection: Connection, changed: Sequence[UUID]) -> list[UUID]:
        """Add an order for each changed agent and each command that it matches for the first time."""
        ordered: list[UUID] = []
        for command in await _lock_commands(connection) if changed else ():
            if agents := await _add_recipients(connection, command, changed):
                size = order_bytes(command.action_args, command.user_name)
                values = {"id": command.request_id, "agents": agents, "held_seconds": self._held_seconds}
                await connection.execute(_ADD_ORDERS, values | {"bytes": size})
                ordered += agents
        return ordered

    async def _forget(self) -> None:
        forgotten = FORGET_STEP
        while forgotten == FORGET_STEP:
            async with self._engine.begin() as connection:
                forgotten = await forget_recipients(connection)
