"""The statement that turns a command into orders: one order per recipient, and the command with their number."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import (
    ARRAY,
    CTE,
    JSON,
    BindParameter,
    Boolean,
    ColumnElement,
    DateTime,
    Double,
    Integer,
    Select,
    Uuid,
    bindparam,
    case,
    cast,
    func,
    insert,
    literal_column,
    select,
    text,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from comms_api.commands.model import NewCommand
from comms_api.commands.targets import recipients, target_parameters
from comms_api.database.actor import ACTOR_SETTINGS, actor_parameters
from comms_api.database.direct import Connection
from comms_api.database.schema import commands, group_members, orders, seconds_interval

NEVER = text("'infinity'::timestamptz")
"""The `offer_at` of an order that is held back."""

ORDER_BYTES = 2_048
"""The most that an order takes in an answer, beside its args: names and ids are bounded."""


_TIMESTAMP = DateTime(timezone=True)

STATEMENTS_CACHED = 64


class Expansion(msgspec.Struct, frozen=True):
    """A command to be expanded: under which id, by whom, for whom, and how long held orders are kept at most."""

    request_id: UUID
    user: str
    command: NewCommand
    recipients: Select[Any]
    """May name the parameters of its command's target."""

    held_seconds: float
    retry_of: UUID | None = None

    @property
    def is_held(self) -> bool:
        """Whether the orders wait for the rollout to release them."""
        return self.command.rollout is not None


def expansion_of(request_id: UUID, user: str, command: NewCommand, held_seconds: float) -> Expansion:
    """Return the expansion of a command to its target."""
    return Expansion(request_id, user, command, recipients(command.target), held_seconds)


def _parameters(expansion: Expansion) -> dict[str, Any]:
    command = expansion.command
    return {
        "request_id": expansion.request_id,
        "source": command.source,
        "user_name": command.user or expansion.user,
        "target_type": command.target.type,
        "target_ids": command.target.ids,
        "target_filter": command.target.filter,
        "action_name": command.action.name,
        "action_version": command.action.version,
        "action_args": command.action.args,
        "timeout_seconds": command.timeout,
        "priority": command.priority,
        "retry_of": expansion.retry_of,
        "phase": "rolling" if expansion.is_held else "released",
        "rollout": command.rollout,
        "start_at": command.start_at,
        "is_held": expansion.is_held,
        "life_seconds": max(expansion.held_seconds, command.timeout) if expansion.is_held else command.timeout,
        "order_bytes": ORDER_BYTES + len(bytes(command.action.args)),
        **target_parameters(command.target),
        **actor_parameters(),
    }


_TOLD = (
    "request_id",
    "source",
    "user_name",
    "target_type",
    "target_ids",
    "target_filter",
    "action_name",
    "action_version",
    "action_args",
    "timeout_seconds",
    "priority",
    "retry_of",
    "phase",
    "rollout",
)
"""The columns of a command that are as they were submitted."""


def _told(name: str) -> BindParameter[Any]:
    of_column = commands.c[name].type
    return bindparam(name, type_=JSON(none_as_null=True) if isinstance(of_column, JSON) else of_column)


# Subqueries, so that they are evaluated once, and not for each order.
_START = func.greatest(func.now(), cast(bindparam("start_at", type_=_TIMESTAMP), _TIMESTAMP))
_STARTS_AT = select(_START).scalar_subquery()
_EXPIRES_AT = select(_START + seconds_interval(bindparam("life_seconds", type_=Double))).scalar_subquery()
_OFFER_AT = select(case((bindparam("is_held", type_=Boolean), NEVER), else_=_START)).scalar_subquery()


async def expand_command(connection: Connection, expansion: Expansion, shown: int) -> tuple[int, list[UUID]]:
    """Add a command and one order per recipient; return how many, and the first `shown` of their ids.

    One statement, which may be a transaction by itself; a command that is for nobody is not added.
    """
    [(count, order_ids, *_)] = await connection.execute(_expand(expansion.recipients, shown), _parameters(expansion))
    return count, order_ids or []


@lru_cache(STATEMENTS_CACHED)
def _expand(chosen: Select[Any], shown: int) -> Select[Any]:
    # Kept, since making it takes longer than running it for one recipient.
    first = literal_column(f"(array_agg(order_id))[1:{int(shown)}]", ARRAY(Uuid)).label("first")
    counted = select(func.count().label("orders"), first).select_from(_add_orders(chosen)).cte("counted")
    return select(counted.c.orders, counted.c.first, *ACTOR_SETTINGS).add_cte(_add_command(counted))


def _add_orders(chosen: Select[Any]) -> CTE:
    recipient = chosen.subquery("recipient")
    # Nothing but the recipients in its FROM: joined with the command, the planner looks each agent up by itself.
    row: Mapping[str, ColumnElement[Any]] = {
        "order_id": func.uuid7(),
        "request_id": _told("request_id"),
        "agent_id": recipient.c.agent_id,
        "agent_groups": func.array(
            select(group_members.c.group_name)
            .where(group_members.c.agent_id == recipient.c.agent_id)
            .order_by(group_members.c.group_name)
            .scalar_subquery()
        ),
        "expires_at": _EXPIRES_AT,
        "priority": _told("priority"),
        "offer_at": _OFFER_AT,
        "bytes": bindparam("order_bytes", type_=Integer),
    }
    return insert(orders).from_select(list(row), select(*row.values())).returning(orders.c.order_id).cte("expanded")


def _add_command(counted: CTE) -> CTE:
    row = select(*map(_told, _TOLD), _STARTS_AT, _EXPIRES_AT, counted.c.orders).where(counted.c.orders > 0)
    return insert(commands).from_select([*_TOLD, "starts_at", "expires_at", "orders"], row).cte("added")


async def rehearse_command(connection: AsyncConnection, expansion: Expansion, shown: int) -> tuple[int, list[UUID]]:
    """Return how many recipients a command would have, and the first `shown` of them by id."""
    chosen = expansion.recipients.subquery("recipient")
    named = target_parameters(expansion.command.target)
    count = await connection.scalar(select(func.count()).select_from(chosen), named)
    first = select(chosen.c.agent_id).order_by("agent_id").limit(shown)
    return count or 0, list(await connection.scalars(first, named))
