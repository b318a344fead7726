"""The statements that read commands, for operators."""

from collections.abc import Iterable
from uuid import UUID

import msgspec
from sqlalchemy import ColumnElement, func, select

from comms_api.commands.model import Command
from comms_api.commands.rollout import Rollout
from comms_api.database.connection import Connection, Row
from comms_api.database.pages import Page, PageRequest, continue_after, equal, fetch_page
from comms_api.database.schema import commands
from comms_api.errors import NotFound
from comms_api.orders.model import OrderFilter
from comms_api.orders.queries import SCANNED_MAXIMUM, command_conditions, submitted_target
from comms_api.protocol import Action, Signed


async def list_commands(connection: Connection, order_filter: OrderFilter, requested: PageRequest) -> Page[Command]:
    """Return a page of commands by id.

    Conditions of the filter that concern single orders are ignored. A page of a sparse filter examines at most
    `SCANNED_MAXIMUM` commands, so it may be short and not the last.
    """
    indexed = list(_indexed_conditions(order_filter, requested))
    request_id, sorting = commands.c.request_id, requested.sorting(commands.c.request_id)
    end: UUID | None = None
    if order_filter.is_sparse:
        last = select(request_id).where(*indexed).order_by(sorting).offset(SCANNED_MAXIMUM - 1).limit(1)
        end = await connection.scalar(last)
    conditions = (*indexed, *command_conditions(order_filter), *requested.until_row(request_id, end))
    statement = select(commands).where(*conditions).order_by(sorting)
    page = await fetch_page(connection, statement, requested.key("request_id"), requested.limit, _command)
    return continue_after(page, end)


def _indexed_conditions(order_filter: OrderFilter, requested: PageRequest) -> Iterable[ColumnElement[bool]]:
    yield from equal([(commands.c.service, order_filter.service)])
    if order_filter.continuous:
        yield commands.c.continues_until > func.now()
        yield commands.c.phase != "cancelled"
    yield from requested.conditions(commands.c.request_id)


def _command(row: Row) -> Command:
    return Command(
        request_id=row.request_id,
        source=row.source,
        user=row.user_name,
        target=submitted_target(row),
        action=Action(row.action_name, row.action_args, row.action_version),
        timeout=row.timeout_seconds,
        priority=row.priority,
        rollout=None if row.rollout is None else msgspec.json.decode(row.rollout, type=Rollout),
        offline=row.offline,
        skipped=row.skipped,
        continuous=row.continues_until is not None,
        until=row.continues_until,
        signed=None if row.signed is None else msgspec.json.decode(row.signed, type=Signed),
        retry_of=row.retry_of,
        phase=row.phase,
        phase_reason=row.phase_reason,
        starts_at=row.starts_at,
        created_at=row.created_at,
        expires_at=row.expires_at,
    )


async def get_command(connection: Connection, request_id: UUID, service: str | None = None) -> Command:
    """Return a command; raises `NotFound`, also for a command that `service` did not submit."""
    row = await connection.first(select(commands).where(commands.c.request_id == request_id))
    if row is None or service not in {None, row.service}:
        raise NotFound(f"There is no command {request_id}.")
    return _command(row)
