"""Render pages: the layout's context, and the headers of every answer."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from jinja2 import Environment, PackageLoader, StrictUndefined
from litestar import Response
from litestar.datastructures import Cookie

from comms_api.console.faults import Fault
from comms_api.console.queries import query_of
from comms_api.console.sessions import csrf_token
from comms_api.console.static_files import static_url
from comms_api.console.texts import FILTERS
from comms_api.http.authentication import find_claims
from comms_api.http.request import AnyRequest, find_header
from comms_api.http.roles import ADMINISTER, OPERATE, READ, ROLES

MEDIA_TYPE = "text/html"
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self';"
    " frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
CHANGED = {"HX-Trigger": "changed"}
"""The header of an answer to a change: the live parts of the page load again."""


class Link(msgspec.Struct, frozen=True):
    """A page of the navigation, and the roles that may see it."""

    path: str
    name: str
    roles: frozenset[str]


NAVIGATION: list[Link] = []
"""The pages of the navigation, in order; `pages/__init__` fills it."""


class Viewer(msgspec.Struct, frozen=True):
    """The user who sees a page; decides which buttons the page has. The routes check the role again."""

    name: str
    role: str

    @property
    def can_read(self) -> bool:
        """Whether the user may see the fleet."""
        return self.role in READ[ROLES]

    @property
    def can_operate(self) -> bool:
        """Whether the user may change the fleet."""
        return self.role in OPERATE[ROLES]

    @property
    def can_administer(self) -> bool:
        """Whether the user may change permissions."""
        return self.role in ADMINISTER[ROLES]


_ENVIRONMENT = Environment(
    loader=PackageLoader("comms_api.console"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    auto_reload=False,
    extensions=["jinja2.ext.do"],
)
_ENVIRONMENT.filters.update(FILTERS)
_ENVIRONMENT.globals.update({"static": static_url, "query_of": query_of})


def viewer_of(request: AnyRequest) -> Viewer | None:
    """Return the signed-in user of a request; None on public pages."""
    claims = find_claims(request)
    return Viewer(claims.subject, claims.role) if claims is not None else None


def is_partial(request: AnyRequest) -> bool:
    """Return whether a page's script asks for a part of a page."""
    return find_header(request.scope, b"hx-request") == "true"


def render(
    request: AnyRequest,
    template: str,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    cookies: Iterable[Cookie] = (),
    **context: Any,
) -> Response[bytes]:
    """Return a page, or a part of one."""
    viewer = viewer_of(request)
    layout = {
        "path": request.url.path,
        "is_part": is_partial(request),
        "viewer": viewer,
        "csrf": csrf_token(request) if viewer else "",
        "navigation": [link for link in NAVIGATION if viewer and viewer.role in link.roles],
    }
    content = _ENVIRONMENT.get_template(template).render(layout | context).encode(errors="backslashreplace")
    return Response(
        content,
        status_code=status,
        media_type=MEDIA_TYPE,
        headers={**HEADERS, **(headers or {})},
        cookies=list(cookies),
    )


def notify(request: AnyRequest, message: str, *, location: str | None = None) -> Response[bytes]:
    """Return the answer to a successful change: a message, or the page at `location`."""
    if location is not None:
        return Response(b"", media_type=MEDIA_TYPE, headers={**HEADERS, "HX-Redirect": location})
    return render(request, "notice.html", headers=CHANGED, kind="good", message=message, faults=())


def refuse(
    request: AnyRequest, faults: Sequence[Fault], *, status: int = 422, headers: Mapping[str, str] | None = None
) -> Response[bytes]:
    """Return the answer to a refused change: a message with its faults, which the page also shows at their fields."""
    return render(request, "notice.html", status=status, headers=headers, kind="bad", faults=faults)


def redirect(location: str, cookies: Iterable[Cookie] = ()) -> Response[bytes]:
    """Return a redirection to a page."""
    headers = {**HEADERS, "Location": location}
    return Response(b"", status_code=303, media_type=MEDIA_TYPE, headers=headers, cookies=list(cookies))
