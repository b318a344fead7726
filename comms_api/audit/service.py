"""Read the audit trail; triggers of the database write it in the transaction of each change."""

from collections.abc import AsyncIterator
from uuid import UUID

import msgspec
from sqlalchemy import select

from comms_api.audit.model import Entry, EntryFilter
from comms_api.database.connection import Engine, Row
from comms_api.database.pages import Page, PageRequest, drain, equal, fetch_page
from comms_api.database.schema import audit
from comms_api.protocol import no_data

EXPORT_PAGE = 1_000


class Audit:
    """The audit trail."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def list(self, entry_filter: EntryFilter, requested: PageRequest) -> Page[Entry]:
        """Return one page of entries."""
        statement = select(audit).where(
            *equal((audit.c[name], getattr(entry_filter, name)) for name in ("actor", "subject", "key")),
            *requested.conditions(audit.c.id),
        )
        statement = statement.order_by(requested.sorting(audit.c.id))
        async with self._engine.connect() as connection:
            return await fetch_page(connection, statement, requested.key("id"), requested.limit, _entry)

    async def stream(self, requested: PageRequest) -> AsyncIterator[Entry]:
        """Yield every entry from the requested page on, a page at a time."""
        while True:
            page = await self.list(EntryFilter(), requested)
            for entry in drain(page):
                yield entry
            if page.next is None:
                return
            requested = msgspec.structs.replace(requested, after=UUID(page.next))


def _entry(row: Row) -> Entry:
    return Entry(**{**row, "before": row.before or no_data(), "after": row.after or no_data()})
