"""The management API's login and users."""

import base64
import binascii

import msgspec
from litestar import delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from comms_api.errors import Conflict, Unauthenticated
from comms_api.http.authentication import PUBLIC, claims_of
from comms_api.http.pages import After, Limit, Page
from comms_api.http.request import AnyRequest
from comms_api.http.roles import ADMINISTER
from comms_api.protocol import Token
from comms_api.users.model import NewUser, User
from comms_api.users.service import Users


class LoginAnswer(msgspec.Struct, frozen=True):
    """The form that real agents read."""

    data: Token
    error: int = 0


@post("/security/user/authenticate", status_code=200, opt=PUBLIC)
async def authenticate_user(request: AnyRequest, users: NamedDependency[Users]) -> LoginAnswer:
    """Log a user in by HTTP Basic (RFC 7617); the request has no body."""
    name, password = _basic_credentials(request.headers.get("authorization", ""))
    return LoginAnswer(Token(await users.log_in(name, password)))


def _basic_credentials(header: str) -> tuple[str, str]:
    scheme, _, encoded = header.partition(" ")
    try:
        name, colon, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        raise Unauthenticated("The Basic credentials are not valid base64.") from None
    if scheme.lower() != "basic" or not colon or "\0" in name:
        raise Unauthenticated("Send a user name and password: Authorization: Basic …")
    return name, password


@post("/users", opt=ADMINISTER)
async def create_user(data: JSONBody[NewUser], users: NamedDependency[Users]) -> dict[str, str]:
    """Make a user; 409 when there is one of that name. A service's name is the server target that it polls for."""
    await users.create(data)
    return {"name": data.name, "role": data.role}


@get("/users", opt=ADMINISTER)
async def list_users(users: NamedDependency[Users], after: After = None, limit: Limit = 100) -> Page[User]:
    """List users by name."""
    return await users.list(after, limit)


@delete("/users/{name:str}", opt=ADMINISTER)
async def delete_user(request: AnyRequest, name: FromPath[str], users: NamedDependency[Users]) -> None:
    """Delete a user, but not oneself; the user's tokens end on every node within seconds."""
    if name == claims_of(request).subject:
        raise Conflict("Nobody can delete themselves.")
    await users.delete(name)


ROUTES = [authenticate_user, create_user, list_users, delete_user]
