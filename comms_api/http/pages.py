"""Keyset pages: every list comes in pages, and every page says where the next begins."""

from collections.abc import Callable, Iterator
from typing import Annotated, Generic, TypeVar

import msgspec
from litestar.params import QueryParameter

from comms_api.database.pages import PAGE_BYTES_MAXIMUM
from comms_api.http.answers import reserving

LIMIT_DEFAULT = 100
LIMIT_MAXIMUM = 1_000

LARGE = reserving(2 * PAGE_BYTES_MAXIMUM)
"""The `opt` of a route with pages of rows of any length, which are in memory as rows and as an answer."""

EXPORT = reserving(PAGE_BYTES_MAXIMUM)
"""The `opt` of a route that streams such pages: it has one of them, and a small part of it as an answer."""

Item = TypeVar("Item")
Limit = Annotated[int, QueryParameter(ge=1, le=LIMIT_MAXIMUM, description="the most items of one page")]
After = Annotated[str | None, QueryParameter(max_length=1024, description="`next` of the page before")]


class Page(msgspec.Struct, Generic[Item], frozen=True):
    """One page; `next` is null on the last one, else the `after` of the next request."""

    items: list[Item]
    next: str | None


def make_page(items: list[Item], cursor: Callable[[Item], str], *, has_more: bool) -> Page[Item]:
    """Make a page of `items`; others may follow it."""
    return Page(items, cursor(items[-1]) if has_more else None)


def page_of(items: list[Item], limit: int, cursor: Callable[[Item], str]) -> Page[Item]:
    """Make a page of `items`, which the caller asked for with `limit + 1` to learn whether more follow."""
    return make_page(items[:limit], cursor, has_more=len(items) > limit)


def drain(page: Page[Item]) -> Iterator[Item]:
    """Yield the items of a page and drop each one, so that a slow client holds only the rest."""
    page.items.reverse()
    while page.items:
        yield page.items.pop()
