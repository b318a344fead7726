"""Actions, built in or registered by operators."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal, TypeAlias

import msgspec

from comms_api.protocol import ROTATE_KEY_ACTION, SET_GROUP_ACTION
from comms_api.text.printable import WITHOUT_NUL

Recipients = Literal["agents", "services", "any"]


SIGNERS_MAXIMUM = 20
PublicKey = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9+/]{43}=\Z")]
"""The 32 bytes of an Ed25519 public key in base64."""


class ActionSchema(msgspec.Struct, frozen=True):
    """The JSON Schema of an action's args, and who may get the action."""

    schema: str
    recipients: Recipients = "agents"
    service: str | None = None
    """The only service that may get it; None for any service."""

    signers: Sequence[str] = ()
    """Public keys, one of which must sign the action's commands; without any, no signature is needed."""

    drops_args: bool = False
    """Whether args are dropped, because real agents expect them empty."""


class NewAction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An action to be registered, or one version of it; without a version it is for commands of any version."""

    schema: msgspec.Raw
    recipients: Recipients = "agents"
    version: Annotated[str, msgspec.Meta(max_length=128, pattern=WITHOUT_NUL)] = ""
    signers: Annotated[list[PublicKey], msgspec.Meta(max_length=SIGNERS_MAXIMUM)] = []


class RegisteredAction(msgspec.Struct, frozen=True):
    """A registered or a built-in action; built-in actions have no user and no date."""

    name: str
    schema: msgspec.Raw
    recipients: Recipients
    user: str | None
    created_at: datetime | None
    version: str = ""
    signers: Sequence[str] = ()


def _schema(properties: Mapping[str, Any], required: tuple[str, ...]) -> str:
    members = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return msgspec.json.encode(members).decode()


_GROUP = {"type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[A-Za-z0-9._-]+$"}
_INDEX = {"type": "string", "minLength": 1}
_INDEX_OR_SEVERAL = {"type": ["string", "array"], "minLength": 1, "items": _INDEX}
_ANYTHING = '{"type":["object","array"]}'

BUILT_IN: Mapping[str, ActionSchema] = {
    "restart": ActionSchema(_ANYTHING, drops_args=True),
    "fetch-config": ActionSchema(_ANYTHING, drops_args=True),
    ROTATE_KEY_ACTION: ActionSchema(_schema({}, ())),
    SET_GROUP_ACTION: ActionSchema(_schema({"groups": {"type": "array", "items": _GROUP}}, ("groups",))),
    "update": ActionSchema(
        _schema({"index": _INDEX, "offset": {"type": "string"}}, ("index", "offset")),
        "services",
        "vulnerability-detector",
    ),
    "refresh": ActionSchema(_schema({"index": _INDEX_OR_SEVERAL}, ()), "services"),
}
"""The actions that real agents and services know."""

Versions: TypeAlias = Mapping[str, ActionSchema | None]
"""The registered versions of an action; the schema is None for versions that no command of the request uses."""

BUILT_IN_VERSIONS: Mapping[str, Versions] = {name: {"": schema} for name, schema in BUILT_IN.items()}
"""Each built-in action with its only version."""
