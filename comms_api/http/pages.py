"""Keyset pages: every list comes in pages, and every page says where the next begins."""

from collections.abc import Callable
from typing import Annotated, Generic, TypeVar

import msgspec
from litestar.params import QueryParameter

LIMIT_DEFAULT = 100
LIMIT_MAXIMUM = 1_000

Item = TypeVar("Item")
Limit = Annotated[int, QueryParameter(ge=1, le=LIMIT_MAXIMUM, description="the most items of one page")]
After = Annotated[str | None, QueryParameter(max_length=1024, description="`next` of the page before")]


class Page(msgspec.Struct, Generic[Item], frozen=True):
    """One page; `next` is null on the last one, else the `after` of the next request."""

    items: list[Item]
    next: str | None


def page_of(items: list[Item], limit: int, cursor: Callable[[Item], str]) -> Page[Item]:
    """Make a page of `items`, which the caller asked for with `limit + 1` to learn whether more follow."""
    more = len(items) > limit
    shown = items[:limit]
    return Page(shown, cursor(shown[-1]) if more else None)
