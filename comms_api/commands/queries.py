"""The statements that read commands and orders, open and finished alike, for operators."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import (
    JSON,
    ColumnElement,
    DateTime,
    FromClause,
    Integer,
    Row,
    Select,
    Text,
    case,
    func,
    null,
    select,
    union_all,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from comms_api.commands.model import Command, OrderFilter, StoredOrder, StoredResult
from comms_api.database.schema import commands, finished_orders, orders
from comms_api.protocol import Action, OrderStatus, Target

_SHARED = (
    "order_id",
    "request_id",
    "agent_id",
    "agent_groups",
    "attempt",
    "created_at",
    "expires_at",
    "sent_at",
)
_OPEN_STATUS: ColumnElement[str] = case((orders.c.attempt == 0, "pending"), else_="sent")


def _open() -> Select[Any]:
    return select(
        *(orders.c[name] for name in _SHARED),
        _OPEN_STATUS.label("status"),
        null().cast(DateTime(timezone=True)).label("finished_at"),
        null().cast(Integer).label("result_code"),
        null().cast(Text).label("result_message"),
        null().cast(JSON).label("result_data"),
    )


def _finished() -> Select[Any]:
    columns = (*_SHARED, "status", "finished_at", "result_code", "result_message", "result_data")
    return select(*(finished_orders.c[name] for name in columns))


def _matching(statement: Select[Any], table: FromClause, wanted: OrderFilter, after: UUID | None) -> Select[Any]:
    if wanted.request_id is not None:
        statement = statement.where(table.c.request_id == wanted.request_id)
    if wanted.agent_id is not None:
        statement = statement.where(table.c.agent_id == wanted.agent_id)
    if wanted.status is not None:
        status = _OPEN_STATUS if table is orders else finished_orders.c.status
        statement = statement.where(status == wanted.status)
    if after is not None:
        statement = statement.where(table.c.order_id > after)
    return statement


async def list_orders(
    connection: AsyncConnection, wanted: OrderFilter, after: UUID | None, limit: int
) -> list[StoredOrder]:
    """Return orders by id, which is by age, beginning behind `after`.

    Each half is limited by itself, so that neither an idle history nor a large queue is read further than the page.
    """
    halves = [
        _matching(_open(), orders, wanted, after).order_by(orders.c.order_id).limit(limit).subquery(),
        _matching(_finished(), finished_orders, wanted, after)
        .order_by(finished_orders.c.order_id)
        .limit(limit)
        .subquery(),
    ]
    both = union_all(*(select(half) for half in halves)).subquery()
    statement = (
        select(both, *_COMMAND)
        .join(commands, commands.c.request_id == both.c.request_id)
        .order_by(both.c.order_id)
        .limit(limit)
    )
    return [_order(row) for row in await connection.execute(statement)]


_COMMAND = (
    commands.c.source,
    commands.c.user_name,
    commands.c.target_type,
    commands.c.target_id,
    commands.c.action_name,
    commands.c.action_version,
    commands.c.action_args,
    commands.c.timeout_seconds,
)


async def find_order(connection: AsyncConnection, order_id: UUID) -> StoredOrder | None:
    """Return one order, or None."""
    open_ = _open().where(orders.c.order_id == order_id)
    finished = _finished().where(finished_orders.c.order_id == order_id)
    both = union_all(open_, finished).subquery()
    statement = select(both, *_COMMAND).join(commands, commands.c.request_id == both.c.request_id)
    row = (await connection.execute(statement)).first()
    return _order(row) if row else None


async def list_commands(connection: AsyncConnection, after: UUID | None, limit: int) -> list[Command]:
    """Return commands by id, which is by age, beginning behind `after`."""
    statement = select(commands).order_by(commands.c.request_id).limit(limit)
    if after is not None:
        statement = statement.where(commands.c.request_id > after)
    return [_command(row) for row in await connection.execute(statement)]


async def find_command(connection: AsyncConnection, request_id: UUID) -> Command | None:
    """Return one command, or None."""
    row = (await connection.execute(select(commands).where(commands.c.request_id == request_id))).first()
    return _command(row) if row else None


async def count_orders(connection: AsyncConnection, request_id: UUID) -> dict[OrderStatus, int]:
    """Return how many orders of a command are in each status that occurs."""
    open_ = select(_OPEN_STATUS.label("status")).where(orders.c.request_id == request_id)
    finished = select(finished_orders.c.status).where(finished_orders.c.request_id == request_id)
    both = union_all(open_, finished).subquery()
    rows = await connection.execute(select(both.c.status, func.count().label("orders")).group_by(both.c.status))
    return {row.status: row.orders for row in rows}


async def list_order_ids(connection: AsyncConnection, request_ids: Sequence[UUID]) -> list[UUID]:
    """Return the ids of every order of these commands, in order."""
    both = union_all(
        *(select(table.c.order_id).where(table.c.request_id.in_(request_ids)) for table in (orders, finished_orders))
    ).subquery()
    return list(await connection.scalars(select(both.c.order_id).order_by(both.c.order_id)))


def _command(row: Row[Any]) -> Command:
    return Command(
        request_id=row.request_id,
        source=row.source,
        user=row.user_name,
        target=Target(row.target_id, row.target_type),
        action=Action(row.action_name, row.action_args, row.action_version),
        timeout=row.timeout_seconds,
        created_at=row.created_at,
        expires_at=row.expires_at,
    )


def _order(row: Row[Any]) -> StoredOrder:
    return StoredOrder(
        **{name: getattr(row, name) for name in _SHARED},
        source=row.source,
        user=row.user_name,
        target=Target(row.target_id, row.target_type),
        action=Action(row.action_name, row.action_args, row.action_version),
        timeout=row.timeout_seconds,
        status=row.status,
        result=StoredResult(row.result_code, row.result_message, row.result_data),
        finished_at=row.finished_at,
    )
