"""The statements that read commands, for operators."""

from uuid import UUID

import msgspec
from sqlalchemy import select

from comms_api.commands.model import Command
from comms_api.commands.rollout import Rollout
from comms_api.database.connection import Connection, Row
from comms_api.database.pages import Page, created_between, fetch_page
from comms_api.database.schema import commands
from comms_api.errors import NotFound
from comms_api.orders.model import OrderFilter
from comms_api.orders.queries import command_conditions, submitted_target
from comms_api.protocol import Action


async def list_commands(
    connection: Connection, order_filter: OrderFilter, after: UUID | None, limit: int
) -> Page[Command]:
    """Return a page of commands by id, starting after `after`.

    Conditions of the filter that concern single orders are ignored.
    """
    statement = select(commands).where(
        *command_conditions(order_filter),
        *created_between(commands.c.request_id, order_filter.since, order_filter.until),
    )
    if after is not None:
        statement = statement.where(commands.c.request_id > after)
    return await fetch_page(connection, statement.order_by(commands.c.request_id), ["request_id"], limit, _command)


async def find_command(connection: Connection, request_id: UUID) -> Command | None:
    """Return one command, or None."""
    row = await connection.first(select(commands).where(commands.c.request_id == request_id))
    return _command(row) if row else None


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
        retry_of=row.retry_of,
        phase=row.phase,
        phase_reason=row.phase_reason,
        starts_at=row.starts_at,
        created_at=row.created_at,
        expires_at=row.expires_at,
    )


async def get_command(connection: Connection, request_id: UUID) -> Command:
    """Return a command; raises `NotFound`."""
    command = await find_command(connection, request_id)
    if command is None:
        raise NotFound(f"There is no command {request_id}.")
    return command
