"""What the actions that real agents know want for arguments; any other action passes with an object or an array."""

from collections.abc import Mapping
from typing import Annotated

import msgspec

from comms_api.protocol import Action, GroupName


class NoArguments(msgspec.Struct, frozen=True):
    """An action that takes none; what is given is dropped."""


class SetGroup(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The groups that an agent is to be in."""

    groups: Annotated[list[GroupName], msgspec.Meta(min_length=1)]


ARGUMENTS: Mapping[str, type[msgspec.Struct]] = {
    "restart": NoArguments,
    "fetch-config": NoArguments,
    "set-group": SetGroup,
}


def check_arguments(action: Action) -> Action:
    """Return the action as agents get it; raises `msgspec.ValidationError`, with the path from the arguments on."""
    kind = ARGUMENTS.get(action.name)
    if kind is None:
        return action
    args = action.args if kind is not NoArguments else msgspec.Raw(b"{}")
    msgspec.json.decode(args, type=kind)
    return msgspec.structs.replace(action, args=args)
