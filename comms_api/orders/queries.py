"""The statements that read orders, open, finished and archived, for operators."""

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import (
    JSON,
    ColumnElement,
    DateTime,
    FromClause,
    Integer,
    Select,
    Text,
    and_,
    case,
    false,
    func,
    null,
    or_,
    select,
    union_all,
)

from comms_api.agents.model import AgentFilter
from comms_api.database.connection import Connection
from comms_api.database.pages import Page, PageRequest, continue_after, equal, fetch_page
from comms_api.database.schema import commands, finished_orders, is_one_of, orders
from comms_api.errors import NotFound
from comms_api.orders.archive.chunks import Unpack, find_archived
from comms_api.orders.model import (
    CommandTarget,
    FailureOutcome,
    OrderFilter,
    OrderOutcome,
    OutcomeFilter,
    StoredOrder,
    StoredResult,
)
from comms_api.orders.targets import is_service
from comms_api.protocol import Action, OrderStatus, kept_source, no_data

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
_FINISHED = (*_SHARED, "status", "outcome", "finished_at", "result_code", "result_message", "result_data")
_OPEN_STATUS: ColumnElement[str] = case((orders.c.attempt == 0, "pending"), else_="sent")


def _open() -> Select[Any]:
    return select(
        *(orders.c[name] for name in _SHARED),
        _OPEN_STATUS.label("status"),
        null().cast(Text).label("outcome"),
        null().cast(DateTime(timezone=True)).label("finished_at"),
        null().cast(Integer).label("result_code"),
        null().cast(Text).label("result_message"),
        null().cast(JSON).label("result_data"),
    )


def _finished() -> Select[Any]:
    return select(*(finished_orders.c[name] for name in _FINISHED))


SCANNED_MAXIMUM = 10_000
"""The maximum number of rows, open and finished each, that one page examines for a filter without an index."""


def command_conditions(order_filter: OrderFilter) -> Iterable[ColumnElement[bool]]:
    """Yield the conditions of a filter on the command of an order."""
    yield from equal(
        (
            (commands.c.source, order_filter.source and kept_source(order_filter.source)),
            (commands.c.user_name, order_filter.user),
            (commands.c.action_name, order_filter.action),
            (commands.c.service, order_filter.service),
        )
    )
    if order_filter.targets:
        yield or_(*(commands.c.target_ids.any_() == name for name in order_filter.targets))


def _conditions(table: FromClause, order_filter: OrderFilter) -> Iterable[ColumnElement[bool]]:
    if order_filter.status is not None:
        yield (_OPEN_STATUS if table is orders else finished_orders.c.status) == order_filter.status
    if order_filter.outcome is not None:
        yield false() if table is orders else _has_outcome(order_filter.outcome)
    if order_filter.code is not None:
        yield false() if table is orders else finished_orders.c.result_code == order_filter.code


def _indexed_conditions(
    table: FromClause, order_filter: OrderFilter, requested: PageRequest
) -> Iterable[ColumnElement[bool]]:
    """Yield the conditions that an index of the table serves."""
    yield from equal(((table.c.request_id, order_filter.request_id), (table.c.agent_id, order_filter.agent_id)))
    yield from requested.conditions(table.c.order_id)


def _has_outcome(outcome: OutcomeFilter) -> ColumnElement[bool]:
    table = finished_orders.c
    match outcome:
        case "success" | "cancelled":
            return table.status == outcome
        case "failed":
            return and_(table.status == "failure", table.outcome.is_(None))
        case "expired":
            return is_one_of(table.outcome, ("expired_before_delivery", "expired_after_delivery"))
        case _:
            return table.outcome == outcome


COMMAND_COLUMNS = (
    commands.c.source,
    commands.c.user_name,
    commands.c.target_type,
    commands.c.target_ids,
    commands.c.target_filter,
    commands.c.action_name,
    commands.c.action_version,
    commands.c.action_args,
    commands.c.timeout_seconds,
    commands.c.priority,
)


async def list_orders(connection: Connection, order_filter: OrderFilter, requested: PageRequest) -> Page[StoredOrder]:
    """Return a page of open and finished orders by id.

    Each half has its own limit, so that neither a long history nor a large queue is read beyond the page. A
    sparse filter examines at most `SCANNED_MAXIMUM` orders of each half, so its page may be short and not the last.
    """
    end = await _find_scan_end(connection, order_filter, requested) if order_filter.is_sparse else None
    halves = [
        statement.add_columns(*COMMAND_COLUMNS)
        .join(commands, commands.c.request_id == table.c.request_id)
        .where(*_indexed_conditions(table, order_filter, requested), *_conditions(table, order_filter))
        .where(*command_conditions(order_filter), *requested.until_row(table.c.order_id, end))
        .order_by(requested.sorting(table.c.order_id))
        .limit(requested.limit + 1)
        .subquery()
        for statement, table in ((_open(), orders), (_finished(), finished_orders))
    ]
    both = union_all(*(select(half) for half in halves)).subquery()
    statement = select(both).order_by(requested.sorting(both.c.order_id))
    key, limit = requested.key("order_id"), requested.limit
    page = await fetch_page(connection, statement, key, limit, lambda row: stored_order(row, row))
    return continue_after(page, end)


async def _find_scan_end(connection: Connection, order_filter: OrderFilter, requested: PageRequest) -> UUID | None:
    """Return the id of the last order that a page may examine, or None if it may examine all."""
    ends = [
        select(table.c.order_id)
        .where(*_indexed_conditions(table, order_filter, requested))
        .order_by(requested.sorting(table.c.order_id))
        .offset(SCANNED_MAXIMUM - 1)
        .limit(1)
        .scalar_subquery()
        for table in (orders, finished_orders)
    ]
    first = func.greatest if requested.is_newest_first else func.least
    end: UUID | None = await connection.scalar(select(first(*ends)))
    return end


async def find_order(connection: Connection, order_id: UUID, unpack_aside: Unpack) -> StoredOrder | None:
    """Return one order, or None."""
    open_ = _open().where(orders.c.order_id == order_id)
    finished = _finished().where(finished_orders.c.order_id == order_id)
    both = union_all(open_, finished).subquery()
    statement = select(both, *COMMAND_COLUMNS).join(commands, commands.c.request_id == both.c.request_id)
    if row := await connection.first(statement):
        return stored_order(row, row)
    archived = await find_archived(connection, order_id, unpack_aside)
    command = await find_command_columns(connection, archived.request_id) if archived else None
    return stored_order(archived, command) if archived and command else None


async def find_command_columns(connection: Connection, request_id: UUID) -> Any:
    """Return the columns of a command that its orders show, as a row; None if retention has deleted the command."""
    return await connection.first(select(*COMMAND_COLUMNS).where(commands.c.request_id == request_id))


async def list_order_ids(connection: Connection, request_ids: Sequence[UUID]) -> list[UUID]:
    """Return the ids of every order of these commands, in order."""
    both = union_all(
        *(
            select(table.c.order_id).where(is_one_of(table.c.request_id, request_ids))
            for table in (orders, finished_orders)
        )
    ).subquery()
    return await connection.scalars(select(both.c.order_id).order_by(both.c.order_id))


def submitted_target(command: Any) -> CommandTarget:
    """Return the submitted target from a row with a command's columns."""
    ids, raw = list(command.target_ids), command.target_filter
    agent_filter = None if raw is None else msgspec.json.decode(raw, type=AgentFilter)
    return CommandTarget(command.target_type, ids[0] if len(ids) == 1 else ids or "", agent_filter)


def outcome_of(status: OrderStatus, outcome: FailureOutcome | None) -> OrderOutcome | None:
    """Return how an order has ended, from its status and the reason of its failure; None if it is open."""
    match status:
        case "pending" | "sent":
            return None
        case "failure":
            return outcome or "failed"
        case _:
            return status


def stored_order(order: Any, command: Any) -> StoredOrder:
    """Return an order, from a row or from the archive, with the columns of its command."""
    return StoredOrder(
        order_id=order.order_id,
        request_id=order.request_id,
        agent_id=None if is_service(order.agent_id) else order.agent_id,
        agent_groups=order.agent_groups,
        source=command.source,
        user=command.user_name,
        target=submitted_target(command),
        action=Action(command.action_name, command.action_args, command.action_version),
        timeout=command.timeout_seconds,
        priority=command.priority,
        status=order.status,
        outcome=outcome_of(order.status, order.outcome),
        attempt=order.attempt,
        result=StoredResult(order.result_code, order.result_message, order.result_data or no_data()),
        created_at=order.created_at,
        expires_at=order.expires_at,
        delivery_timestamp=order.expires_at,
        sent_at=order.sent_at,
        finished_at=order.finished_at,
    )


async def is_submitted_by(connection: Connection, request_id: UUID, service: str) -> bool:
    """Return whether a service submitted the command."""
    submitted = commands.c.request_id == request_id, commands.c.service == service
    return await connection.scalar(select(commands.c.request_id).where(*submitted)) is not None


async def get_order(connection: Connection, order_id: UUID, unpack_aside: Unpack) -> StoredOrder:
    """Return an order, which may be archived; raises `NotFound`."""
    order = await find_order(connection, order_id, unpack_aside)
    if order is None:
        raise NotFound(f"There is no order {order_id}.")
    return order
