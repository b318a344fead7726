"""Sign in and out."""

import msgspec
from litestar import Response, get, post
from litestar.di import NamedDependency

from comms_api.console.queries import Words, read_form
from comms_api.console.rendering import notify, redirect, render
from comms_api.console.sessions import DEVICE_COOKIE, SIGN_IN, ended_session, page_or_home, session_cookies
from comms_api.errors import TooManyRequests, Unauthenticated
from comms_api.http.authentication import PUBLIC, claims_of
from comms_api.http.bodies import Bodies
from comms_api.http.request import AnyRequest, remote_address
from comms_api.http.roles import ANYONE
from comms_api.users.model import Origin
from comms_api.users.service import Users


class Credentials(msgspec.Struct, frozen=True):
    """The sign-in form; `next` is the page to return to."""

    name: Words = ""
    password: Words = ""
    next: Words = ""


@get(SIGN_IN, opt=PUBLIC)
async def show_sign_in(request: AnyRequest) -> Response[bytes]:
    """Show the sign-in form."""
    return render(request, "sign_in.html", name="", next=page_or_home(request.query_params.get("next")), message="")


@post(SIGN_IN, opt=PUBLIC)
async def sign_in(
    request: AnyRequest, users: NamedDependency[Users], bodies: NamedDependency[Bodies]
) -> Response[bytes]:
    """Open a session, and return to the page that required it."""
    form = read_form(await bodies.receive_public(request), Credentials)
    page = page_or_home(form.next)
    origin = Origin(remote_address(request), request.cookies.get(DEVICE_COOKIE))
    try:
        session = await users.open_session(form.name, form.password, origin)
    except (Unauthenticated, TooManyRequests) as error:
        status = 429 if isinstance(error, TooManyRequests) else 401
        return render(request, "sign_in.html", status=status, name=form.name, next=page, message=error.detail)
    return redirect(page, session_cookies(session.text, session.device_token))


@post("/console/sign-out", opt=ANYONE)
async def sign_out(request: AnyRequest, users: NamedDependency[Users]) -> Response[bytes]:
    """End every session and token of the user, on every node."""
    await users.log_out(claims_of(request).subject)
    answer = notify(request, "", location=SIGN_IN)
    answer.set_cookie(ended_session())
    return answer


ROUTES = [show_sign_in, sign_in, sign_out]
