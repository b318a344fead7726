"""The management API's registry of actions."""

from collections.abc import Sequence

import msgspec
from litestar import delete, get, put
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery

from comms_api.actions.model import NewAction, RegisteredAction
from comms_api.actions.service import Actions
from comms_api.http.authentication import claims_of
from comms_api.http.bodies import JSON_BYTES_MAXIMUM, Bodies
from comms_api.http.description.operations import reads
from comms_api.http.request import AnyRequest
from comms_api.http.roles import ADMINISTER, READ
from comms_api.text.faults import read_json

_ACTION = msgspec.json.Decoder(NewAction)


@get("/actions", opt=READ)
async def list_actions(actions: NamedDependency[Actions]) -> Sequence[RegisteredAction]:
    """List the actions whose args are checked, built in or registered, with the JSON Schema of their args."""
    return await actions.list()


@put("/actions/{name:str}", opt=ADMINISTER | reads(NewAction))
async def register_action(
    request: AnyRequest, name: FromPath[str], actions: NamedDependency[Actions], bodies: NamedDependency[Bodies]
) -> NewAction:
    """Register or change an action: the JSON Schema of its args, and whether it is for agents or services.

    With a `version`, it is for commands whose `action.version` is the same. Once an action has versions, a command of
    any other version is refused. With `signers`, public keys in base64, only commands that one of them has signed are
    accepted.
    """
    async with bodies.receive(request, JSON_BYTES_MAXIMUM) as body:
        action = read_json(body, _ACTION, '{"schema", "recipients"?, "version"?, "signers"?}')
    await actions.register(name, action, claims_of(request).subject)
    return action


@delete("/actions/{name:str}", opt=ADMINISTER)
async def forget_action(
    name: FromPath[str], actions: NamedDependency[Actions], version: FromQuery[str | None] = None
) -> None:
    """Delete a registered action with all of its versions, or the one that `version` names."""
    await actions.forget(name, version)


ROUTES = [list_actions, register_action, forget_action]
