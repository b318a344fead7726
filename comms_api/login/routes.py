"""The agent API's login."""

import re

import msgspec
from litestar import post, put
from litestar.di import NamedDependency

from comms_api.http.authentication import PUBLIC, agent_of
from comms_api.http.bodies import JSON_BYTES_MAXIMUM, Bodies
from comms_api.http.description.operations import reads
from comms_api.http.request import AnyRequest, client_name, find_header, remote_address
from comms_api.login.rotation import KeyRotation
from comms_api.login.service import Login, LoginClient
from comms_api.protocol import AGENT_INSTANCE, Credentials, NextKey, Token
from comms_api.text.faults import read_json

_DECODER = msgspec.json.Decoder(Credentials)
_NEXT_KEY = msgspec.json.Decoder(NextKey)
_INSTANCE_HEADER = AGENT_INSTANCE.lower().encode()
_INSTANCE = re.compile(r"[0-9a-f]{32}")


@post(["/login", "/authentication"], status_code=200, opt=PUBLIC | reads(Credentials))
async def log_in(request: AnyRequest, login: NamedDependency[Login], bodies: NamedDependency[Bodies]) -> Token:
    """Log an agent in with its id and key; agents give up after 401 `Invalid key` or 403 `Agent does not exist`."""
    credentials = read_json(await bodies.receive_public(request), _DECODER, '{"uuid", "key"}')
    scope = request.scope
    instance = _INSTANCE.fullmatch(find_header(scope, _INSTANCE_HEADER) or "")
    client = LoginClient(
        address=remote_address(request),
        certified=client_name(scope),
        user_agent=find_header(scope, b"user-agent"),
        instance=instance[0] if instance else None,
    )
    return Token(await login.log_in(credentials, client))


@put("/key", status_code=204, opt=reads(NextKey))
async def submit_next_key(
    request: AnyRequest, rotation: NamedDependency[KeyRotation], bodies: NamedDependency[Bodies]
) -> None:
    """Submit the next key for a `rotate-key` order; the first login with it invalidates the old key.

    422 if the agent has no such open order, 403 if `current_key` is not the agent's key.
    """
    async with bodies.receive(request, JSON_BYTES_MAXIMUM) as body:
        submitted = read_json(body, _NEXT_KEY, '{"order_id", "current_key", "next_key"}')
    await rotation.keep(agent_of(request), submitted)


LOGIN_ROUTES = [log_in]
ROUTES = [*LOGIN_ROUTES, submit_next_key]
