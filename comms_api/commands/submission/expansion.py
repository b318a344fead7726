"""The statement that expands a command: it adds one order per recipient, and the command with their number."""

from functools import cache
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
    exists,
    func,
    insert,
    literal_column,
    or_,
    select,
    text,
)

from comms_api.commands.model import NewCommand, Submitted
from comms_api.commands.submission.targets import CONSTANT_RECIPIENTS, MOST_RECIPIENTS, recipients, target_parameters
from comms_api.database.actor import ACTOR_SETTINGS, actor_parameters
from comms_api.database.connection import Connection
from comms_api.database.schema import commands, group_members, orders, seconds_interval
from comms_api.orders.model import Claimed, order_bytes
from comms_api.orders.targets import wire_target
from comms_api.protocol import Order, kept_source
from comms_api.spans import COMMAND_ID, current_traceparent, span

NEVER = text("'infinity'::timestamptz")
"""The `offer_at` of an order that is held back."""

_TIMESTAMP = DateTime(timezone=True)


class Expansion(msgspec.Struct, frozen=True):
    """A command to expand into orders; held orders expire after `held_seconds` at the latest."""

    request_id: UUID
    user: str
    command: NewCommand
    recipients: Select[Any]
    """Selects `agent_id`; may use the parameters of the command's target."""

    held_seconds: float
    retry_of: UUID | None = None
    service: str | None = None
    """The service that submits the command, which may name another user."""

    traceparent: str | None = msgspec.field(default_factory=current_traceparent)
    """The span that submits the command."""

    @property
    def is_due_at_once(self) -> bool:
        """Whether the orders may be offered at once."""
        return not self.is_held and self.command.start_at is None

    @property
    def may_be_empty(self) -> bool:
        """Whether the command is stored even if it has no recipient."""
        return self.command.offline == "skip" or self.command.continuous

    @property
    def is_held(self) -> bool:
        """Whether the orders wait for the rollout to release them."""
        return self.command.rollout is not None


def expansion_of(
    request_id: UUID, user: str, command: NewCommand, held_seconds: float, service: str | None = None
) -> Expansion:
    """Return the expansion of a command to its target."""
    chosen = recipients(command.target, command.offline)
    return Expansion(request_id, user, command, chosen, held_seconds, service=service)


def _parameters(expansion: Expansion) -> dict[str, Any]:
    command = expansion.command
    return {
        "request_id": expansion.request_id,
        "source": kept_source(command.source),
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
        "service": expansion.service,
        "traceparent": expansion.traceparent,
        "phase": "rolling" if expansion.is_held else "released",
        "rollout": command.rollout,
        "start_at": command.start_at,
        "is_held": expansion.is_held,
        "may_be_empty": expansion.may_be_empty,
        "offline": command.offline,
        "continues_until": command.until,
        "signed": command.signed,
        "life_seconds": max(expansion.held_seconds, command.timeout) if expansion.is_held else command.timeout,
        "order_bytes": order_bytes(bytes(command.action.args), command.user or expansion.user, command.signed),
        **target_parameters(command.target),
        **actor_parameters(),
    }


_SUBMITTED_COLUMNS = (
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
    "service",
    "traceparent",
    "phase",
    "rollout",
    "offline",
    "continues_until",
    "signed",
)
"""The columns of a command that store its submitted values."""


def _column_parameter(name: str) -> BindParameter[Any]:
    column_type = commands.c[name].type
    return bindparam(name, type_=JSON(none_as_null=True) if isinstance(column_type, JSON) else column_type)


# As subqueries, these are evaluated once instead of for each order.
_START = func.greatest(func.now(), cast(bindparam("start_at", type_=_TIMESTAMP), _TIMESTAMP))
_STARTS_AT = select(_START).scalar_subquery()
_EXPIRES_AT = select(_START + seconds_interval(bindparam("life_seconds", type_=Double))).scalar_subquery()
_OFFER_AT = select(case((bindparam("is_held", type_=Boolean), NEVER), else_=_START)).scalar_subquery()


async def expand_command(connection: Connection, expansion: Expansion, shown: int) -> Submitted:
    """Add a command and one order per recipient, and return the command with the ids of the first `shown` orders.

    This is one statement, so it needs no transaction around it. A command without recipients is only added if it may be
    empty.
    """
    statement = _expand(expansion.recipients, shown)
    with span("expand", {COMMAND_ID: str(expansion.request_id)}):
        [(count, order_ids, *_)] = await connection.execute(statement, _parameters(expansion))
    return _submitted(expansion, count, order_ids)


async def expand_and_claim(
    connection: Connection, expansion: Expansion, shown: int, lease_seconds: float
) -> tuple[Submitted, list[Claimed]]:
    """Expand a command and claim its orders at once, except orders for recipients with an older due order."""
    parameters = _parameters(expansion) | {"lease_seconds": lease_seconds}
    statement = _expand(expansion.recipients, shown, claims=True)
    with span("expand", {COMMAND_ID: str(expansion.request_id)}), span("claim"):
        rows = await connection.execute(statement, parameters)
    [(count, order_ids, claimed, agents, *_)] = rows
    pairs = zip(claimed or (), agents or (), strict=True)
    return _submitted(expansion, count, order_ids), [_claimed(expansion, *pair) for pair in pairs]


def _submitted(expansion: Expansion, count: int, order_ids: list[UUID] | None) -> Submitted:
    return Submitted(expansion.request_id, count, order_ids or [], f"/orders?request_id={expansion.request_id}")


def _claimed(expansion: Expansion, order_id: UUID, agent_id: UUID) -> Claimed:
    command = expansion.command
    order = Order(
        document_id=str(order_id),
        request_id=str(expansion.request_id),
        order_id=str(order_id),
        source=kept_source(command.source),
        user=command.user or expansion.user,
        target=wire_target(command.target.type, command.target.ids, agent_id),
        action=command.action,
        timeout=command.timeout,
        status="sent",
        signed=command.signed,
    )
    return Claimed(agent_id, 1, order, expansion.traceparent)


def _expand(chosen: Select[Any], shown: int, *, claims: bool = False) -> Select[Any]:
    # Building the statement takes longer than running it for one recipient. A statement is hashed by identity, so a
    # cache would keep each one that is built for a single command, with its parameters.
    build = _build_once if chosen in CONSTANT_RECIPIENTS else _build
    return build(chosen, shown, claims=claims)


def _build(chosen: Select[Any], shown: int, *, claims: bool) -> Select[Any]:
    added = _add_orders(chosen, claims=claims)
    first = literal_column(f"(array_agg(order_id))[1:{int(shown)}]", ARRAY(Uuid)).label("first")
    taken = [func.array_agg(column).filter(added.c.attempt > 0) for column in (added.c.order_id, added.c.agent_id)]
    columns = [func.count().label("orders"), first, *(taken if claims else ())]
    counted = select(*columns).select_from(added).cte("counted")
    submitted = map(_column_parameter, _SUBMITTED_COLUMNS)
    is_added = or_(counted.c.orders > 0, bindparam("may_be_empty", type_=Boolean))
    expires_at = func.greatest(_EXPIRES_AT, _column_parameter("continues_until"))
    row = select(*submitted, _STARTS_AT, expires_at, counted.c.orders).where(is_added)
    command = insert(commands).from_select([*_SUBMITTED_COLUMNS, "starts_at", "expires_at", "orders"], row).cte("added")
    return select(*counted.c, *ACTOR_SETTINGS).add_cte(command)


_build_once = cache(_build)


def constant_statements(shown: int) -> list[Select[Any]]:
    """Return the statements that expand commands to agents by name, and to one group."""
    return [_build_once(chosen, shown, claims=claims) for chosen in MOST_RECIPIENTS for claims in (False, True)]


def _add_orders(chosen: Select[Any], *, claims: bool) -> CTE:
    recipient = chosen.subquery("recipient")
    # FROM contains only the recipients. If it also joined the command, the planner would look up each agent separately.
    row: dict[str, ColumnElement[Any]] = {
        "order_id": func.uuid7(),
        "request_id": _column_parameter("request_id"),
        "agent_id": recipient.c.agent_id,
        "agent_groups": func.array(
            select(group_members.c.group_name)
            .where(group_members.c.agent_id == recipient.c.agent_id)
            .order_by(group_members.c.group_name)
            .scalar_subquery()
        ),
        "expires_at": _EXPIRES_AT,
        "priority": _column_parameter("priority"),
        "offer_at": _OFFER_AT,
        "bytes": bindparam("order_bytes", type_=Integer),
    }
    if claims:
        row |= _claim(recipient.c.agent_id)
    added = insert(orders).from_select(list(row), select(*row.values()))
    return added.returning(orders.c.order_id, orders.c.agent_id, orders.c.attempt).cte("expanded")


def _claim(agent_id: ColumnElement[Any]) -> dict[str, ColumnElement[Any]]:
    """Return the columns of an order that is claimed on insertion, or inserted unclaimed if an older order is due."""
    is_claimed = ~exists().where(
        orders.c.agent_id == agent_id, orders.c.offer_at <= func.now(), orders.c.expires_at > func.now()
    )
    lease_end = func.now() + seconds_interval(bindparam("lease_seconds", type_=Double))
    return {
        "attempt": case((is_claimed, 1), else_=0),
        "sent_at": case((is_claimed, func.now())),
        "offer_at": case((is_claimed, lease_end), else_=_OFFER_AT),
    }


async def count_skipped(connection: Connection, expansion: Expansion, orders: int) -> int:
    """Return how many agents a command with `orders` orders has skipped."""
    if expansion.command.offline == "wait":
        return 0
    target = expansion.command.target
    statement = select(func.count()).select_from(recipients(target).subquery())
    everyone: int = await connection.scalar(statement, target_parameters(target))
    return max(0, everyone - orders)


async def record_skipped(connection: Connection, request_id: UUID, skipped: int) -> None:
    """Store how many agents a command has skipped."""
    await connection.execute(commands.update().where(commands.c.request_id == request_id).values(skipped=skipped))


async def rehearse_command(connection: Connection, expansion: Expansion, shown: int) -> tuple[int, list[UUID]]:
    """Return how many recipients a command would have, and the first `shown` of them by id."""
    chosen = expansion.recipients.subquery("recipient")
    named = target_parameters(expansion.command.target)
    count = await connection.scalar(select(func.count()).select_from(chosen), named)
    first = select(chosen.c.agent_id).order_by("agent_id").limit(shown)
    return count or 0, await connection.scalars(first, named)
