"""What the args of an action must be: built-in actions, and those that operators register, each by a JSON Schema."""

import json
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from itertools import islice
from typing import Any, Literal

import jsonschema_rs
import msgspec
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from comms_api.commands.model import CommandTarget
from comms_api.database.schema import actions
from comms_api.errors import Invalid
from comms_api.protocol import CANCEL_ACTION, ROTATE_KEY_ACTION, SET_GROUP_ACTION, Action, contains_nul

Recipients = Literal["agents", "services", "any"]

SCHEMA_BYTES_MAXIMUM = 64 * 1024
VALIDATORS_CACHED = 256
FAULTS_SHOWN = 5


class ActionSchema(msgspec.Struct, frozen=True):
    """What an action wants: the JSON Schema of its args, and whom it may be sent to."""

    schema: msgspec.Raw
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


def _schema(properties: Mapping[str, Any], required: tuple[str, ...]) -> msgspec.Raw:
    members = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return msgspec.Raw(msgspec.json.encode(members))


_GROUP = {"type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[A-Za-z0-9._-]+$"}
_INDEX = {"type": "string", "minLength": 1}
_INDEX_OR_SEVERAL = {"type": ["string", "array"], "minLength": 1, "items": _INDEX}
_ANYTHING = msgspec.Raw(b'{"type":["object","array"]}')

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
        known |= {row.name: ActionSchema(row.schema, row.recipients) for row in rows}
    return known


def check_action(
    where: str, action: Action, target: CommandTarget, schema: ActionSchema | None, *, passes_unknown: bool
) -> Action:
    """Return the action as its recipients get it; raises `Invalid`, naming the field from `where` on."""
    if action.name == CANCEL_ACTION:
        raise Invalid(f"{where}.action.name: submit POST /commands/{{request_id}}/cancel instead")
    if schema is None:
        if passes_unknown:
            return action
        raise Invalid(f"{where}.action.name: there is no action {action.name!r}; register it with PUT /actions")
    _check_recipients(where, action, target, schema)
    if schema.drops_args:
        return msgspec.structs.replace(action, args=msgspec.Raw(b"{}"))
    try:
        faults = find_faults(schema.schema, json.loads(bytes(action.args)))
    except (RecursionError, ValueError) as error:
        raise Invalid(f"{where}.action.args: cannot be checked: {error}") from None
    if faults:
        raise Invalid("; ".join(f"{where}.action.args{fault}" for fault in faults))
    return action


def _check_recipients(where: str, action: Action, target: CommandTarget, schema: ActionSchema) -> None:
    kind: Recipients = "services" if target.type == "server" else "agents"
    if schema.recipients not in {"any", kind}:
        raise Invalid(f"{where}.target.type: the action {action.name!r} is for {schema.recipients}, not for {kind}")
    if schema.service is not None and target.ids != [schema.service]:
        raise Invalid(f"{where}.target.id: the action {action.name!r} is for the service {schema.service!r}")


def find_faults(schema: msgspec.Raw, instance: Any) -> list[str]:
    """Return where an instance breaks a schema and how, the first few."""
    errors = islice(_validator(bytes(schema)).iter_errors(instance), FAULTS_SHOWN)
    return [f"{_path(error.instance_path)}: {error.message}" for error in errors]


def _path(steps: list[str | int]) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)


@lru_cache(VALIDATORS_CACHED)
def _validator(schema: bytes) -> jsonschema_rs.Validator:
    # Offline: a reference to an address would have the server ask there. And patterns that cannot take forever.
    return jsonschema_rs.validator_for(json.loads(schema), offline=True, pattern_options=jsonschema_rs.RegexOptions())


def check_schema(schema: msgspec.Raw) -> None:
    """Raise `Invalid` for what is no JSON Schema that can be used here."""
    if len(bytes(schema)) > SCHEMA_BYTES_MAXIMUM:
        raise Invalid(f"schema: larger than {SCHEMA_BYTES_MAXIMUM} bytes")
    if contains_nul(bytes(schema)):
        raise Invalid("schema: must not contain NUL")
    try:
        _validator(bytes(schema))
    except (ValueError, jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, RecursionError) as error:
        raise Invalid(f"schema: {str(error).splitlines()[0]}") from None


class _Groups(msgspec.Struct, frozen=True):
    groups: list[str]


def named_groups(action: Action) -> list[str]:
    """Return the groups that a checked `set-group` names; none for any other action."""
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
    known = [RegisteredAction(name, kind.schema, kind.recipients, None, None) for name, kind in BUILT_IN.items()]
    return sorted(registered + known, key=lambda action: action.name)


async def delete_action(connection: AsyncConnection, name: str) -> bool:
    """Forget a registered action; return whether there was one."""
    return await connection.scalar(actions.delete().where(actions.c.name == name).returning(actions.c.name)) is not None
