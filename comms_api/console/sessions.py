"""Browser sessions: their cookies, and the checks that a request comes from a page of this console.

A session is a random text in a cookie that scripts cannot read. The server stores its hash with the refresh tokens, so
whatever ends a user's refresh tokens also ends the user's sessions. With each request, the text is exchanged for an
access token, so the guards of the API apply to the console as well.
"""

import hmac
import re
from hashlib import blake2b
from urllib.parse import quote

from litestar.datastructures import Cookie
from litestar.handlers import BaseRouteHandler

from comms_api.errors import Forbidden, Unauthenticated
from comms_api.http.authentication import AnyConnection, FindToken
from comms_api.http.request import AnyRequest, find_header
from comms_api.users.service import Users

HOME = "/console"
SIGN_IN = "/console/sign-in"

SESSION_COOKIE = "__Host-comms-api-session"
DEVICE_COOKIE = "__Host-comms-api-device"
DEVICE_COOKIE_SECONDS = 90 * 86_400

CSRF_HEADER = b"x-csrf-token"
POLL_HEADER = b"x-poll"
"""The header of a live part's poll: `attended` if somebody has used the page since the last one, else `unattended`."""

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_PAGE = re.compile(r"/console(?:[/?][!-\[\]-~]*)?")
"""The path and query of a page, in printable ASCII without a backslash."""


def find_session(users: Users) -> FindToken:
    """Return a function that exchanges the session of a request for a token."""

    async def find_token(connection: AnyConnection, _handler: BaseRouteHandler) -> str:
        session = connection.cookies.get(SESSION_COOKIE)
        if not session:
            raise Unauthenticated("Sign in first.")
        is_attended = find_header(connection.scope, POLL_HEADER) != "unattended"
        return await users.session_token(session, is_attended=is_attended)

    return find_token


def token_or_session(find_token: FindToken, find_session: FindToken) -> FindToken:
    """Return a function that uses the session of a request without a token, on a route with `SESSION`."""

    async def find(connection: AnyConnection, handler: BaseRouteHandler) -> str:
        has_token = find_header(connection.scope, b"authorization") is not None
        accepts_session = handler.opt.get("session") and SESSION_COOKIE in connection.cookies
        return await (find_session if accepts_session and not has_token else find_token)(connection, handler)

    return find


def csrf_token(connection: AnyConnection) -> str:
    """Return the token that this session's pages send with each change."""
    return blake2b(connection.cookies.get(SESSION_COOKIE, "").encode(), digest_size=16, person=b"csrf").hexdigest()


async def require_own_page(connection: AnyConnection, handler: BaseRouteHandler) -> None:
    """Refuse a change that does not come from a page of this console; a guard.

    The browser says where the request comes from (Fetch Metadata, or Origin), and the page adds the session's token,
    which pages of other sites cannot read. The sign-in has no session, and thus no token.
    """
    if connection.scope.get("method") in _SAFE_METHODS:
        return
    if not _is_same_origin(connection):
        raise Forbidden("The request does not come from a page of this console.")
    sent = find_header(connection.scope, CSRF_HEADER) or ""
    if not handler.opt.get("public") and not hmac.compare_digest(sent.encode(), csrf_token(connection).encode()):
        raise Forbidden("The page belongs to another session; reload it and try again.")


def _is_same_origin(connection: AnyConnection) -> bool:
    site = find_header(connection.scope, b"sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    host, origin = find_header(connection.scope, b"host"), find_header(connection.scope, b"origin")
    return bool(host) and origin == f"https://{host}"


def session_cookies(session: str, device_token: str) -> list[Cookie]:
    """Return the cookies of a new session; the session's cookie ends with the browser."""
    return [_cookie(SESSION_COOKIE, session), _cookie(DEVICE_COOKIE, device_token, DEVICE_COOKIE_SECONDS)]


def ended_session() -> Cookie:
    """Return the cookie that removes a session from the browser."""
    return _cookie(SESSION_COOKIE, "", 0)


def _cookie(name: str, value: str, max_age: int | None = None) -> Cookie:
    return Cookie(key=name, value=value, max_age=max_age, path="/", secure=True, httponly=True, samesite="strict")


def page_or_home(text: str | None) -> str:
    """Return the path of a page of this console, or the home page for any other text."""
    return text if text and _PAGE.fullmatch(text) else HOME


def sign_in_url(request: AnyRequest) -> str:
    """Return the URL of the sign-in page, which returns to the requested page; for a part, to the page around it."""
    page = find_header(request.scope, b"hx-current-url")
    if page is not None:
        page = "/" + page.partition("://")[2].partition("/")[2]
    elif request.method == "GET":
        page = str(request.url.path) + (f"?{request.url.query}" if request.url.query else "")
    back = page_or_home(page)
    return SIGN_IN if back == HOME else f"{SIGN_IN}?next={quote(back, safe='/')}"


def is_link_from_elsewhere(request: AnyRequest) -> bool:
    """Return whether the browser follows a link of another site; it sends no cookies then."""
    return (
        request.method == "GET"
        and find_header(request.scope, b"sec-fetch-site") in {"cross-site", "same-site"}
        and find_header(request.scope, b"sec-fetch-mode") == "navigate"
    )
