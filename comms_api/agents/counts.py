"""SQL statements that count agents; each reads a whole table, so the caller asks seldom."""

from sqlalchemy import ColumnElement, Select, func, select

from comms_api.agents.store import STATUS
from comms_api.database.connection import Connection
from comms_api.database.schema import agents, group_members

_VISIBLE = agents.c.hidden_at.is_(None)


async def count_statuses(connection: Connection) -> dict[str, int]:
    """Return the number of visible agents by status."""
    status = STATUS.label("status")
    statement = select(status, func.count()).where(_VISIBLE).group_by(status)
    return {row[0]: row[1] for row in await connection.execute(statement)}


async def count_versions(connection: Connection, limit: int) -> list[tuple[str, int]]:
    """Return the most frequent versions of visible agents, and the number of their agents."""
    return await _most_frequent(connection, agents.c.version, limit, select(agents.c.version).where(_VISIBLE))


async def count_members(connection: Connection, limit: int) -> list[tuple[str, int]]:
    """Return the largest groups, and the number of their agents, including hidden ones."""
    return await _most_frequent(connection, group_members.c.group_name, limit, select(group_members.c.group_name))


async def _most_frequent(
    connection: Connection, column: ColumnElement[str], limit: int, rows: Select[tuple[str]]
) -> list[tuple[str, int]]:
    number = func.count().label("number")
    statement = rows.add_columns(number).group_by(column).order_by(number.desc(), column).limit(limit)
    return [(name, number) for name, number in await connection.execute(statement)]
