"""The management API's login."""

import base64
import binascii

import msgspec
from litestar import post
from litestar.di import NamedDependency

from comms_api.errors import Unauthenticated
from comms_api.http.authentication import PUBLIC
from comms_api.http.request import AnyRequest
from comms_api.protocol import Token
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


ROUTES = [authenticate_user]
