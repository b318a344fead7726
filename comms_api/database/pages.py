"""Keyset pages: lists are returned in pages of bounded rows and bytes, each with the cursor of the next page."""

import base64
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar
from uuid import UUID

import msgspec
from sqlalchemy import (
    ARRAY,
    JSON,
    ColumnElement,
    LargeBinary,
    Select,
    Subquery,
    Text,
    case,
    cast,
    func,
    literal,
    or_,
    select,
)

from comms_api.database.connection import Connection, Row
from comms_api.database.uuid7 import uuid7_floor

Item = TypeVar("Item")

PAGE_BYTES_MAXIMUM = 2**20
ROW_BYTES = 256
"""The approximate size of a row without its variable-length columns."""

ESCAPED_BYTES = 6
"""The maximum number of JSON bytes for one byte of text."""

ROWS_AT_ONCE = 64
"""The maximum number of rows to fetch at once, and to read beyond a full page."""


Order = Literal["oldest", "newest"]
"""The items of a list that come first."""


class Page(msgspec.Struct, Generic[Item], frozen=True):
    """One page; `next` is the `after` of the next request, or null on the last page."""

    items: list[Item]
    next: str | None


class PageRequest(msgspec.Struct, frozen=True):
    """A request for one page of a list of rows with UUIDv7 ids.

    The rows were created from `since` on and before `until`. The page begins with the first row that follows `after` in
    this order, and has at most `limit` rows.
    """

    limit: int = 100
    after: UUID | None = None
    order: Order = "oldest"
    since: datetime | None = None
    until: datetime | None = None

    @property
    def is_newest_first(self) -> bool:
        """Whether the newest row comes first."""
        return self.order == "newest"

    def conditions(self, column: ColumnElement[UUID]) -> list[ColumnElement[bool]]:
        """Return the conditions on the column of the ids; its index serves all of them."""
        conditions = []
        if self.since is not None:
            conditions.append(column >= uuid7_floor(self.since))
        if self.until is not None:
            conditions.append(column < uuid7_floor(self.until))
        if self.after is not None:
            conditions.append(column < self.after if self.is_newest_first else column > self.after)
        return conditions

    def includes(self, row_id: UUID) -> bool:
        """Return whether an id meets these conditions."""
        return (
            (self.since is None or row_id >= uuid7_floor(self.since))
            and (self.until is None or row_id < uuid7_floor(self.until))
            and (self.after is None or self.is_before(self.after, row_id))
        )

    def is_before(self, first: UUID, second: UUID) -> bool:
        """Return whether one id comes before another in this order."""
        return first > second if self.is_newest_first else first < second

    def sorting(self, column: ColumnElement[UUID]) -> ColumnElement[UUID]:
        """Return what to order rows by."""
        return column.desc() if self.is_newest_first else column

    def key(self, name: str) -> list[str]:
        """Return the key of `fetch_page` for the column with this name."""
        return [f"-{name}" if self.is_newest_first else name]

    def until_row(self, column: ColumnElement[UUID], end: UUID | None) -> list[ColumnElement[bool]]:
        """Return the conditions that rows do not follow the row `end`; None matches every row."""
        if end is None:
            return []
        return [column >= end if self.is_newest_first else column <= end]


def page_of(items: list[Item], limit: int, cursor: Callable[[Item], str]) -> Page[Item]:
    """Return a page of at most `limit` items; the caller fetched `limit + 1` to learn whether more follow."""
    return Page(items[:limit], cursor(items[limit - 1]) if len(items) > limit else None)


def equal(values: Iterable[tuple[ColumnElement[Any], object]]) -> list[ColumnElement[bool]]:
    """Return the conditions that each column has its value; None matches every row."""
    return [column == value for column, value in values if value is not None]


def drain(page: Page[Item]) -> Iterator[Item]:
    """Yield the items of a page and drop each one, so that a slow client keeps only the remaining ones in memory."""
    page.items.reverse()
    while page.items:
        yield page.items.pop()


async def fetch_page(
    connection: Connection,
    statement: Select[Any],
    key: Sequence[str],
    limit: int,
    read: Callable[[Row], Item],
) -> Page[Item]:
    """Return the first page of a statement that is ordered by the columns `key`.

    A minus before the name of a column means descending order.

    A page has at most `limit` rows and about `PAGE_BYTES_MAXIMUM` bytes of JSON; a larger row gets its own page. Its
    cursor is the key of its last row: the value of a single column, or an opaque word that encodes several.
    """
    items: list[Item] = []
    names, last_key = [name.lstrip("-") for name in key], list[object]()
    rows = connection.stream(_measured(statement, key, limit), ROWS_AT_ONCE)
    async with connection.transaction(), aclosing(rows):
        async for row in rows:
            if len(items) == limit or row[names[0]] is None:
                return Page(items, encode_cursor(last_key))
            items.append(read(row))
            last_key = [row[name] for name in names]
    return Page(items, None)


async def find_last_examined(
    connection: Connection, column: ColumnElement[UUID], conditions: Sequence[ColumnElement[bool]], maximum: int
) -> UUID | None:
    """Return the id at which a page ends that examines `maximum` rows by id; None if there are fewer rows."""
    last = select(column).where(*conditions).order_by(column).offset(maximum - 1).limit(1)
    found: UUID | None = await connection.scalar(last)
    return found


def continue_after(page: Page[Item], end: UUID | str | None) -> Page[Item]:
    """Return a page that continues after `end`, unless it is full before.

    `end` is the id or the cursor of the last row that it examined.
    """
    return Page(page.items, str(end)) if page.next is None and end is not None else page


def encode_cursor(key: Sequence[object]) -> str:
    """Return the key of a row as the cursor of the page that follows the row."""
    return str(key[0]) if len(key) == 1 else base64.urlsafe_b64encode(msgspec.json.encode(key)).decode()


def _measured(statement: Select[Any], key: Sequence[str], limit: int) -> Select[Any]:
    """Return the statement with all columns set to null from the first row that does not fit on the page."""
    rows = statement.limit(limit + 1).subquery()
    size = sum((_size(column) for column in rows.c), start=literal(ROW_BYTES))
    # OFFSET makes PostgreSQL compute each size once; ORDER BY lets it avoid reading and sorting all rows.
    measured = select(rows, size.label("row_bytes")).order_by(*_ordered(rows, key)).offset(0).subquery()
    total = func.sum(measured.c.row_bytes).over(order_by=_ordered(measured, key), rows=(None, 0))
    is_within = or_(total <= PAGE_BYTES_MAXIMUM, total == measured.c.row_bytes)
    shown = [case((is_within, column)).label(column.name) for column in measured.c if column.name != "row_bytes"]
    return select(*shown).order_by(*_ordered(measured, key))


def _ordered(rows: Subquery, key: Sequence[str]) -> list[ColumnElement[Any]]:
    return [rows.c[name[1:]].desc() if name.startswith("-") else rows.c[name] for name in key]


def _size(column: ColumnElement[Any]) -> ColumnElement[int]:
    if isinstance(column.type, LargeBinary):
        return func.coalesce(func.octet_length(column) * ESCAPED_BYTES, 0)
    if isinstance(column.type, JSON):
        return func.coalesce(func.octet_length(cast(column, Text)), 0)
    if isinstance(column.type, Text | ARRAY):
        return func.coalesce(func.octet_length(cast(func.to_json(column), Text)), 0)
    return literal(0)
