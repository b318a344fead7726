"""The parameters and the options of routes that return pages of a list."""

from typing import Annotated

from litestar.params import QueryParameter

from comms_api.database.pages import PAGE_BYTES_MAXIMUM
from comms_api.http.answers import reserving

LIMIT_MAXIMUM = 1_000

LARGE = reserving(2 * PAGE_BYTES_MAXIMUM)
"""The `opt` of a route with pages of rows of any length: a page is in memory twice, as rows and as an answer."""

EXPORT = reserving(PAGE_BYTES_MAXIMUM)
"""The `opt` of a route that streams such pages: one page is in memory, with a small part of it as an answer."""

Limit = Annotated[int, QueryParameter(ge=1, le=LIMIT_MAXIMUM, description="the maximum number of items on one page")]
After = Annotated[str | None, QueryParameter(max_length=1024, description="`next` of the previous page")]
