"""The audit trail: every change that people make."""

from litestar import Response, get
from litestar.di import NamedDependency

from comms_api.audit.model import EntryFilter
from comms_api.audit.service import Audit
from comms_api.console.queries import NewestFirst, Words, read_query
from comms_api.console.rendering import render
from comms_api.http.pages import LARGE
from comms_api.http.request import AnyRequest
from comms_api.http.roles import ADMINISTER


class EntryList(NewestFirst, frozen=True, forbid_unknown_fields=True):
    """The state of the list: its filters, as in the API, and the last entry of the previous page."""

    actor: Words | None = None
    subject: Words | None = None
    key: Words | None = None


@get("/console/audit", opt=ADMINISTER | LARGE)
async def list_entries(request: AnyRequest, audit: NamedDependency[Audit]) -> Response[bytes]:
    """List the changes, newest first."""
    state = read_query(request, EntryList)
    entry_filter = EntryFilter(state.actor, state.subject, state.key)
    page = await audit.list(entry_filter, state.requested)
    return render(request, "audit.html", state=state, page=page)


ROUTES = [list_entries]
