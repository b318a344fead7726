"""The users of the management API, for administrators, and the page of one's own account."""

from typing import Annotated

import msgspec
from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from comms_api.console.queries import read_query, receive_form
from comms_api.console.rendering import notify, render
from comms_api.console.sessions import DEVICE_COOKIE, SIGN_IN, ended_session
from comms_api.errors import Conflict, Forbidden, Unauthenticated
from comms_api.http.authentication import claims_of
from comms_api.http.bodies import Bodies
from comms_api.http.request import AnyRequest, remote_address
from comms_api.http.roles import ADMINISTER, READ
from comms_api.tokens.issuer import Role
from comms_api.users.model import NewUser, Origin, PasswordChange, UserChange
from comms_api.users.service import Users

ROWS = 100
FORM_BYTES_MAXIMUM = 8 * 1024
ROLES_SHOWN: tuple[tuple[Role, str], ...] = (
    ("administrator", "administrator: may do everything"),
    ("operator", "operator: commands, groups and agents"),
    ("reader", "reader: sees the fleet, changes nothing"),
    ("service", "service: submits and receives orders; sees no page of the console"),
)


class UserList(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The state of the list: the last name of the previous page."""

    after: Annotated[str, msgspec.Meta(max_length=128)] | None = None


@get("/console/users", opt=ADMINISTER)
async def list_users(request: AnyRequest, users: NamedDependency[Users]) -> Response[bytes]:
    """List the users by name."""
    state = read_query(request, UserList)
    page = await users.list(state.after, ROWS)
    return render(request, "users.html", state=state, page=page, roles=ROLES_SHOWN)


@post("/console/users", opt=ADMINISTER, status_code=200)
async def create_user(
    request: AnyRequest, users: NamedDependency[Users], bodies: NamedDependency[Bodies]
) -> Response[bytes]:
    """Create a user."""
    user = await receive_form(request, bodies, NewUser, FORM_BYTES_MAXIMUM)
    await users.create(user)
    return notify(request, f"{user.name} can sign in as {user.role}.")


@post("/console/users/{name:str}/change", opt=ADMINISTER, status_code=200)
async def change_user(
    request: AnyRequest, name: FromPath[str], users: NamedDependency[Users], bodies: NamedDependency[Bodies]
) -> Response[bytes]:
    """Set the role or the password of a user."""
    change = await receive_form(request, bodies, UserChange, FORM_BYTES_MAXIMUM)
    await users.change(name, change)
    outcome = f"is now {change.role}" if change.role else "has a new password"
    return notify(request, f"{name} {outcome}, and must sign in again.")


@post("/console/users/{name:str}/delete", opt=ADMINISTER, status_code=200)
async def delete_user(request: AnyRequest, name: FromPath[str], users: NamedDependency[Users]) -> Response[bytes]:
    """Delete another user."""
    if name == claims_of(request).subject:
        raise Conflict("You cannot delete your own user.")
    await users.delete(name)
    return notify(request, f"{name} is deleted; all sessions and tokens of {name} end within seconds.")


@get("/console/account", opt=READ)
async def show_account(request: AnyRequest) -> Response[bytes]:
    """Show the form for one's own password."""
    return render(request, "account.html")


@post("/console/account/password", opt=READ, status_code=200)
async def change_own_password(
    request: AnyRequest, users: NamedDependency[Users], bodies: NamedDependency[Bodies]
) -> Response[bytes]:
    """Set one's own password, which ends every session, and sign in again."""
    change = await receive_form(request, bodies, PasswordChange, FORM_BYTES_MAXIMUM)
    origin = Origin(remote_address(request), request.cookies.get(DEVICE_COOKIE))
    try:
        await users.change_password(claims_of(request).subject, change, origin)
    except Unauthenticated as error:  # the page would ask to sign in
        raise Forbidden(error.detail) from None
    answer = notify(request, "", location=SIGN_IN)
    answer.set_cookie(ended_session())
    return answer


ROUTES = [list_users, create_user, change_user, delete_user, show_account, change_own_password]
