"""The management API's audit trail, for administrators."""

from datetime import datetime
from uuid import UUID

import msgspec
from litestar import get
from litestar.di import NamedDependency
from litestar.params import FromQuery
from litestar.response import Stream

from comms_api.audit.model import Entry, EntryFilter
from comms_api.audit.service import Audit
from comms_api.database.pages import Page
from comms_api.http.pages import EXPORT, LARGE, Limit
from comms_api.http.roles import ADMINISTER


@get("/audit", opt=ADMINISTER | LARGE)
async def list_audit(  # noqa: PLR0913 - one parameter per filter
    audit: NamedDependency[Audit],
    actor: FromQuery[str | None] = None,
    subject: FromQuery[str | None] = None,
    key: FromQuery[str | None] = None,
    since: FromQuery[datetime | None] = None,
    until: FromQuery[datetime | None] = None,
    after: FromQuery[UUID | None] = None,
    limit: Limit = 100,
) -> Page[Entry]:
    """List changes, oldest first, filtered by actor, subject (the table), key and time."""
    return await audit.list(EntryFilter(actor, subject, key, since, until), after, limit)


@get("/audit/export", opt=ADMINISTER | EXPORT)
async def export_audit(
    audit: NamedDependency[Audit],
    since: FromQuery[datetime | None] = None,
    until: FromQuery[datetime | None] = None,
) -> Stream:
    """Stream the whole trail, or a period of it, as JSON lines."""
    entries = audit.stream(EntryFilter(since=since, until=until))
    lines = (msgspec.json.encode(entry) + b"\n" async for entry in entries)
    headers = {"Content-Disposition": 'attachment; filename="audit.ndjson"'}
    return Stream(lines, media_type="application/x-ndjson", headers=headers)


ROUTES = [list_audit, export_audit]
