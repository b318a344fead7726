"""Read the audit trail; triggers of the database write it in the transaction of each change."""

from collections.abc import AsyncIterator
from uuid import UUID

from sqlalchemy import select

from comms_api.audit.model import Entry, EntryFilter
from comms_api.database.connection import Engine
from comms_api.database.pages import Page, created_between, drain, equal, fetch_page
from comms_api.database.schema import audit

EXPORT_PAGE = 1_000


class Audit:
    """The audit trail."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def list(self, entry_filter: EntryFilter, after: UUID | None, limit: int) -> Page[Entry]:
        """Return one page of entries, oldest first."""
        statement = select(audit).where(
            *equal((audit.c[name], getattr(entry_filter, name)) for name in ("actor", "subject", "key")),
            *created_between(audit.c.id, entry_filter.since, entry_filter.until),
        )
        if after is not None:
            statement = statement.where(audit.c.id > after)
        async with self._engine.connect() as connection:
            return await fetch_page(connection, statement.order_by(audit.c.id), ["id"], limit, lambda row: Entry(**row))

    async def stream(self, entry_filter: EntryFilter) -> AsyncIterator[Entry]:
        """Yield every entry, oldest first, a page at a time."""
        after: UUID | None = None
        while True:
            page = await self.list(entry_filter, after, EXPORT_PAGE)
            for entry in drain(page):
                yield entry
            if page.next is None:
                return
            after = UUID(page.next)
