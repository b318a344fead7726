"""The agent API's login."""

import msgspec
from litestar import post
from litestar.di import NamedDependency

from comms_api.http.authentication import PUBLIC
from comms_api.http.bodies import Bodies, read_json
from comms_api.http.request import AnyRequest, client_name, remote_address
from comms_api.login.service import Login
from comms_api.protocol import Credentials, Token

LOGIN_BYTES_MAXIMUM = 64 * 1024

_DECODER = msgspec.json.Decoder(Credentials)


@post(["/login", "/authentication"], status_code=200, opt=PUBLIC)
async def log_in(request: AnyRequest, login: NamedDependency[Login], bodies: NamedDependency[Bodies]) -> Token:
    """Log an agent in with its id and key: 401 `Invalid key`, 403 `Agent does not exist`, both final for it."""
    async with bodies.receive(request, LOGIN_BYTES_MAXIMUM) as body:
        credentials = read_json(body, _DECODER, '{"uuid", "key"}')
    return Token(await login.log_in(credentials, remote_address(request), client_name(request.scope)))


ROUTES = [log_in]
