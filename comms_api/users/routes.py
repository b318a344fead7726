"""The management API's login and users."""

import msgspec
from litestar import delete, get, patch, post, put
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from comms_api.database.pages import Page
from comms_api.errors import Conflict
from comms_api.http.authentication import PUBLIC, AnyConnection, LogIn, basic_credentials, claims_of
from comms_api.http.bodies import Bodies
from comms_api.http.description.operations import PASSWORD, authenticates, reads
from comms_api.http.pages import After, Limit
from comms_api.http.request import AnyRequest, find_header, remote_address
from comms_api.http.roles import ADMINISTER, ANYONE
from comms_api.text.faults import read_json
from comms_api.users.model import CurrentUser, NewUser, Origin, PasswordChange, Refresh, TokenPair, User, UserChange
from comms_api.users.service import Users

DEVICE_HEADER = b"device-token"

_REFRESH = msgspec.json.Decoder(Refresh)


class LoginAnswer(msgspec.Struct, frozen=True):
    """The envelope that deployed clients expect."""

    data: TokenPair
    error: int = 0


def origin_of(connection: AnyConnection) -> Origin:
    """Return the source of a request with a password."""
    return Origin(remote_address(connection), find_header(connection.scope, DEVICE_HEADER))


def basic_login(users: Users) -> LogIn:
    """Return the login of requests that send a user name and a password by HTTP Basic instead of a token."""

    async def log_in(connection: AnyConnection) -> str:
        name, password = basic_credentials(connection)
        return await users.token_for(name, password, origin_of(connection))

    return log_in


@post("/security/user/authenticate", status_code=200, opt=PUBLIC | authenticates(PASSWORD))
async def authenticate_user(request: AnyRequest, users: NamedDependency[Users]) -> LoginAnswer:
    """Log a user in by HTTP Basic (RFC 7617); the request has no body.

    A client that keeps the `device_token` of the answer and sends it with the next login, in the header `Device-Token`,
    is not locked out by the wrong passwords of others.
    """
    name, password = basic_credentials(request)
    return LoginAnswer(await users.log_in(name, password, origin_of(request)))


@post("/security/user/refresh", status_code=200, opt=PUBLIC | reads(Refresh))
async def refresh_tokens(
    request: AnyRequest, users: NamedDependency[Users], bodies: NamedDependency[Bodies]
) -> LoginAnswer:
    """Return the next pair of tokens for a refresh token, which is valid once.

    Using a token a second time revokes all tokens that followed it.
    """
    refresh = read_json(await bodies.receive_public(request), _REFRESH, '{"refresh_token"}')
    return LoginAnswer(await users.refresh(refresh.refresh_token, remote_address(request)))


@delete("/security/user/authenticate", opt=ANYONE)
async def log_out(request: AnyRequest, users: NamedDependency[Users]) -> None:
    """Revoke all tokens of the caller, on every node within seconds."""
    await users.log_out(claims_of(request).subject)


@get("/users/me", opt=ANYONE)
async def show_current_user(request: AnyRequest) -> CurrentUser:
    """Show the caller's name and role."""
    claims = claims_of(request)
    return CurrentUser(claims.subject, claims.role)


@put("/users/me/password", status_code=204, opt=ANYONE)
async def change_own_password(
    request: AnyRequest, data: JSONBody[PasswordChange], users: NamedDependency[Users]
) -> None:
    """Set the caller's password and revoke all tokens of the caller."""
    await users.change_password(claims_of(request).subject, data, origin_of(request))


@patch("/users/{name:str}", status_code=204, opt=ADMINISTER)
async def change_user(name: FromPath[str], data: JSONBody[UserChange], users: NamedDependency[Users]) -> None:
    """Set a user's password or role and revoke the user's tokens."""
    await users.change(name, data)


@post("/users", opt=ADMINISTER)
async def create_user(data: JSONBody[NewUser], users: NamedDependency[Users]) -> dict[str, str]:
    """Create a user; 409 when the name is taken. A service's name is the server target that it polls for."""
    await users.create(data)
    return {"name": data.name, "role": data.role}


@get("/users", opt=ADMINISTER)
async def list_users(users: NamedDependency[Users], after: After = None, limit: Limit = 100) -> Page[User]:
    """List users by name."""
    return await users.list(after, limit)


@delete("/users/{name:str}", opt=ADMINISTER)
async def delete_user(request: AnyRequest, name: FromPath[str], users: NamedDependency[Users]) -> None:
    """Delete another user; the user's tokens are revoked on every node within seconds."""
    if name == claims_of(request).subject:
        raise Conflict("You cannot delete your own user.")
    await users.delete(name)


ROUTES = [
    authenticate_user,
    refresh_tokens,
    log_out,
    create_user,
    list_users,
    show_current_user,
    change_own_password,
    change_user,
    delete_user,
]
