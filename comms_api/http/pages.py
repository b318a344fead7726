"""The parameters and the options of routes that return pages of a list."""

from datetime import datetime
from typing import Annotated, TypeAlias
from uuid import UUID

from litestar.di import NamedDependency, Provide
from litestar.params import FromQuery, QueryParameter

from comms_api.database.pages import PAGE_BYTES_MAXIMUM, Order, PageRequest
from comms_api.http.answers import reserving

LIMIT_MAXIMUM = 1_000
WAIT_SECONDS_MAXIMUM = 30

LARGE = reserving(2 * PAGE_BYTES_MAXIMUM)
"""The `opt` of a route with pages of rows of any length: a page is in memory twice, as rows and as an answer."""

EXPORT = reserving(PAGE_BYTES_MAXIMUM)
"""The `opt` of a route that streams such pages: one page is in memory, with a small part of it as an answer."""

Limit = Annotated[int, QueryParameter(ge=1, le=LIMIT_MAXIMUM, description="the maximum number of items on one page")]
Wait = Annotated[float, QueryParameter(ge=0, le=WAIT_SECONDS_MAXIMUM, description="seconds")]
After = Annotated[str | None, QueryParameter(max_length=1024, description="`next` of the previous page")]

Since = Annotated[datetime | None, QueryParameter(description="only items created at or after this time")]
Until = Annotated[datetime | None, QueryParameter(description="only items created before this time")]
InOrder = Annotated[Order, QueryParameter(name="order", description="which items come first")]

RequestedPage: TypeAlias = NamedDependency[PageRequest]
"""Provides `requested_page`: the page of a list of items with UUIDv7 ids that the query requests."""


async def find_requested_page(
    since: Since = None,
    until: Until = None,
    in_order: InOrder = "oldest",
    after: FromQuery[UUID | None] = None,
    limit: Limit = 100,
) -> PageRequest:
    """Return the page that a query requests."""
    return PageRequest(limit, after, in_order, since, until)


PAGES = {"requested_page": Provide(find_requested_page)}
"""The name under which routes receive this dependency."""
