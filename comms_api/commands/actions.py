"""What the args of an action must be: built-in actions, and those that operators register, each by a JSON Schema."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

import msgspec
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from comms_api.database.schema import actions
from comms_api.errors import Invalid
from comms_api.orders.model import CommandTarget
from comms_api.protocol import CANCEL_ACTION, ROTATE_KEY_ACTION, SET_GROUP_ACTION, Action

Recipients = Literal["agents", "services", "any"]


class ActionSchema(msgspec.Struct, frozen=True):
    """The JSON Schema of an action's args, and who may get the action."""

    schema: str
    recipients: Recipients = "agents"
    service: str | None = None
    """The one service that knows it; None for any."""

    drops_args: bool = False
    """Whether args are dropped, as real agents expect them empty."""


class NewAction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An action to be registered."""

    schema: msgspec.Raw
    recipients: Recipients = "agents"


class RegisteredAction(msgspec.Struct, frozen=True):
    """An action that an operator has registered, or one that is built in, which has no user and no date."""

    name: str
    schema: msgspec.Raw
    recipients: Recipients
    user: str | None
    created_at: datetime | None


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


async def load_schemas(connection: AsyncConnection, names: set[str]) -> dict[str, ActionSchema]:
    """Return the schemas of those of the actions that are built in or registered."""
    known = {name: BUILT_IN[name] for name in names & BUILT_IN.keys()}
    if unknown := names - known.keys():
        rows = await connection.execute(select(actions).where(actions.c.name.in_(unknown)))
        known |= {row.name: ActionSchema(bytes(row.schema).decode(), row.recipients) for row in rows}
    return known


def admit_action(
    where: str, action: Action, target: CommandTarget, schema: ActionSchema | None, *, passes_unknown: bool
) -> Action:
    """Return the action in the form that its recipients get; raises `Invalid` with the field's path after `where`.

    The args are not checked yet.
    """
    if action.name == CANCEL_ACTION:
        raise Invalid(f"{where}.action.name: submit POST /commands/{{request_id}}/cancel instead")
    if schema is None:
        if passes_unknown:
            return action
        raise Invalid(f"{where}.action.name: there is no action {action.name!r}; register it with PUT /actions")
    _check_recipients(where, action, target, schema)
    if schema.drops_args:
        return msgspec.structs.replace(action, args=msgspec.Raw(b"{}"))
    return action


def _check_recipients(where: str, action: Action, target: CommandTarget, schema: ActionSchema) -> None:
    kind: Recipients = "services" if target.type == "server" else "agents"
    if schema.recipients not in {"any", kind}:
        raise Invalid(f"{where}.target.type: the action {action.name!r} is for {schema.recipients}, not for {kind}")
    if schema.service is not None and target.ids != [schema.service]:
        raise Invalid(f"{where}.target.id: the action {action.name!r} is for the service {schema.service!r}")


class _Groups(msgspec.Struct, frozen=True):
    groups: list[str]


def named_groups(action: Action) -> list[str]:
    """Return the groups in a checked `set-group`, and none for any other action."""
    return msgspec.json.decode(action.args, type=_Groups).groups if action.name == SET_GROUP_ACTION else []


# -- the registry


async def store_action(connection: AsyncConnection, name: str, action: NewAction, user: str) -> None:
    """Register an action, in the place of an earlier one of that name."""
    values = {"name": name, "schema": action.schema, "recipients": action.recipients, "user_name": user}
    statement = insert(actions).values(values)
    await connection.execute(statement.on_conflict_do_update(index_elements=[actions.c.name], set_=values))


async def list_actions(connection: AsyncConnection) -> list[RegisteredAction]:
    """Return every action, built in or registered, by name."""
    rows = await connection.execute(select(actions))
    registered = [RegisteredAction(row.name, row.schema, row.recipients, row.user_name, row.created_at) for row in rows]
    known = [
        RegisteredAction(name, msgspec.Raw(kind.schema), kind.recipients, None, None) for name, kind in BUILT_IN.items()
    ]
    return sorted(registered + known, key=lambda action: action.name)


async def delete_action(connection: AsyncConnection, name: str) -> bool:
    """Forget a registered action; return whether there was one."""
    return await connection.scalar(actions.delete().where(actions.c.name == name).returning(actions.c.name)) is not None
