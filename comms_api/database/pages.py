"""Read one page of a list: bounded in rows and in bytes, and without asking the database for much more than that."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from sqlalchemy import (
    ARRAY,
    JSON,
    ColumnElement,
    LargeBinary,
    Row,
    Select,
    Text,
    case,
    cast,
    func,
    literal,
    or_,
    select,
)
from sqlalchemy.ext.asyncio import AsyncConnection

Item = TypeVar("Item")

PAGE_BYTES_MAXIMUM = 8 * 2**20
ROW_BYTES = 256
"""About what a row takes beside its columns of any length."""

ESCAPED_BYTES = 6
"""The most that a byte takes in JSON."""

ROWS_AT_ONCE = 64
"""How many rows are fetched from the cursor at once: so many at most are read beyond a page that is full."""


async def fetch_page(
    connection: AsyncConnection,
    statement: Select[Any],
    key: Sequence[str],
    limit: int,
    read: Callable[[Row[Any]], Item],
) -> tuple[list[Item], bool]:
    """Return the first rows of a statement that is ordered by the columns `key`, and whether more follow.

    They are at most `limit` rows and about `PAGE_BYTES_MAXIMUM` bytes of JSON; a larger row comes alone.
    """
    items: list[Item] = []
    rows = await connection.stream(_measured(statement, key, limit), execution_options={"yield_per": ROWS_AT_ONCE})
    try:
        async for row in rows:
            if len(items) == limit or getattr(row, key[0]) is None:
                return items, True
            items.append(read(row))
    finally:
        await rows.close()
    return items, False


def _measured(statement: Select[Any], key: Sequence[str], limit: int) -> Select[Any]:
    """Return the statement; every column is null from the first row on that the page has no room for."""
    rows = statement.limit(limit + 1).subquery()
    size = sum((_size(column) for column in rows.c), start=literal(ROW_BYTES))
    # OFFSET has each size computed once; ORDER BY shows PostgreSQL that it need not read and sort all rows.
    measured = select(rows, size.label("row_bytes")).order_by(*(rows.c[name] for name in key)).offset(0).subquery()
    total = func.sum(measured.c.row_bytes).over(order_by=[measured.c[name] for name in key], rows=(None, 0))
    is_within = or_(total <= PAGE_BYTES_MAXIMUM, total == measured.c.row_bytes)
    shown = [case((is_within, column)).label(column.name) for column in measured.c if column.name != "row_bytes"]
    return select(*shown).order_by(*(measured.c[name] for name in key))


def _size(column: ColumnElement[Any]) -> ColumnElement[int]:
    if isinstance(column.type, LargeBinary):
        return func.coalesce(func.octet_length(column) * ESCAPED_BYTES, 0)
    if isinstance(column.type, JSON):
        return func.coalesce(func.octet_length(cast(column, Text)), 0)
    if isinstance(column.type, Text | ARRAY):
        return func.coalesce(func.octet_length(cast(func.to_json(column), Text)), 0)
    return literal(0)
