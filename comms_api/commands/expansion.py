"""The statements that turn a command into orders: one order per recipient, all of a command in one statement."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import (
    ARRAY,
    DateTime,
    Integer,
    Select,
    Uuid,
    cast,
    func,
    literal,
    literal_column,
    null,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from comms_api.commands.model import NewCommand
from comms_api.commands.targets import recipients
from comms_api.database.schema import commands, group_members, orders, seconds_interval

NEVER = text("'infinity'::timestamptz")
"""The `offer_at` of an order that is held back."""

ORDER_BYTES = 2_048
"""The most that an order takes in an answer, beside its args: names and ids are bounded."""


_TIMESTAMP = DateTime(timezone=True)


class Expansion(msgspec.Struct, frozen=True):
    """A command to be expanded: under which id, by whom, for whom, and how long held orders are kept at most."""

    request_id: UUID
    user: str
    command: NewCommand
    recipients: Select[Any]
    held_seconds: float
    retry_of: UUID | None = None

    @property
    def is_held(self) -> bool:
        """Whether the orders wait for the rollout to release them."""
        return self.command.rollout is not None


def expansion_of(request_id: UUID, user: str, command: NewCommand, held_seconds: float) -> Expansion:
    """Return the expansion of a command to its target."""
    return Expansion(request_id, user, command, recipients(command.target), held_seconds)


def _values(expansion: Expansion) -> Mapping[str, Any]:
    command = expansion.command
    start = func.greatest(func.now(), cast(literal(command.start_at, _TIMESTAMP), _TIMESTAMP))
    seconds = max(expansion.held_seconds, command.timeout) if expansion.is_held else command.timeout
    return {
        "request_id": expansion.request_id,
        "source": command.source,
        "user_name": command.user or expansion.user,
        "target_type": command.target.type,
        "target_ids": command.target.ids,
        "target_filter": null() if command.target.filter is None else command.target.filter,
        "action_name": command.action.name,
        "action_version": command.action.version,
        "action_args": command.action.args,
        "timeout_seconds": command.timeout,
        "priority": command.priority,
        "retry_of": expansion.retry_of,
        "phase": "rolling" if expansion.is_held else "released",
        "rollout": null() if command.rollout is None else command.rollout,
        "starts_at": start,
        "expires_at": start + seconds_interval(seconds),
    }


async def expand_command(connection: AsyncConnection, expansion: Expansion, shown: int) -> tuple[int, list[UUID]]:
    """Add a command and one order per recipient; return how many, and the first `shown` of their ids."""
    inserted = insert(commands).values(_values(expansion)).returning(commands.c.starts_at, commands.c.expires_at)
    starts_at, expires_at = (await connection.execute(inserted)).one()
    command = expansion.command
    chosen = expansion.recipients.subquery("recipient")
    # Nothing but the recipients in its FROM: joined with the command, the planner looks each agent up by itself.
    rows = select(
        func.uuid7(),
        literal(expansion.request_id, Uuid),
        chosen.c.agent_id,
        func.array(
            select(group_members.c.group_name)
            .where(group_members.c.agent_id == chosen.c.agent_id)
            .order_by(group_members.c.group_name)
            .scalar_subquery()
        ),
        literal(expires_at, _TIMESTAMP),
        literal(command.priority, Integer),
        NEVER if expansion.is_held else literal(starts_at, _TIMESTAMP),
        literal(ORDER_BYTES + len(bytes(command.action.args)), Integer),
    )
    names = ["order_id", "request_id", "agent_id", "agent_groups", "expires_at", "priority", "offer_at", "bytes"]
    expanded = insert(orders).from_select(names, rows).returning(orders.c.order_id).cte("expanded")
    first = literal_column(f"(array_agg(order_id))[1:{int(shown)}]", ARRAY(Uuid))
    count, order_ids = (await connection.execute(select(func.count(), first).select_from(expanded))).one()
    of_command = commands.c.request_id == expansion.request_id
    await connection.execute(update(commands).where(of_command).values(orders=count))
    return count, order_ids or []


async def rehearse_command(connection: AsyncConnection, expansion: Expansion, shown: int) -> tuple[int, list[UUID]]:
    """Return how many recipients a command would have, and the first `shown` of them by id."""
    chosen = expansion.recipients.subquery("recipient")
    count = await connection.scalar(select(func.count()).select_from(chosen))
    return count or 0, list(await connection.scalars(select(chosen.c.agent_id).order_by("agent_id").limit(shown)))
