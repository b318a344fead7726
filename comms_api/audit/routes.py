"""The management API's audit trail, for administrators."""

import msgspec
from litestar import get
from litestar.di import NamedDependency
from litestar.params import FromQuery
from litestar.response import Stream

from comms_api.audit.model import Entry, EntryFilter
from comms_api.audit.service import EXPORT_PAGE, Audit
from comms_api.database.pages import Page, PageRequest
from comms_api.http.pages import EXPORT, LARGE, InOrder, RequestedPage, Since, Until
from comms_api.http.roles import ADMINISTER
from comms_api.protocol import JSON_LINES


@get("/audit", opt=ADMINISTER | LARGE)
async def list_audit(
    audit: NamedDependency[Audit],
    requested_page: RequestedPage,
    actor: FromQuery[str | None] = None,
    subject: FromQuery[str | None] = None,
    key: FromQuery[str | None] = None,
) -> Page[Entry]:
    """List changes, filtered by actor, subject (the table), key and time."""
    return await audit.list(EntryFilter(actor, subject, key), requested_page)


@get("/audit/export", opt=ADMINISTER | EXPORT, media_type=JSON_LINES)
async def export_audit(
    audit: NamedDependency[Audit], since: Since = None, until: Until = None, in_order: InOrder = "oldest"
) -> Stream:
    """Stream the whole trail, or a period of it, as JSON lines."""
    entries = audit.stream(PageRequest(EXPORT_PAGE, order=in_order, since=since, until=until))
    lines = (msgspec.json.encode(entry) + b"\n" async for entry in entries)
    headers = {"Content-Disposition": 'attachment; filename="audit.ndjson"'}
    return Stream(lines, headers=headers)


ROUTES = [list_audit, export_audit]
