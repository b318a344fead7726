"""Refuse commands whose targets or actions are not allowed; each error names the commands at fault."""

from collections.abc import Sequence
from uuid import UUID

import msgspec

from comms_api.actions.model import ActionSchema, Recipients, Versions
from comms_api.commands.model import NewCommand
from comms_api.commands.submission.expansion import Expansion
from comms_api.commands.submission.targets import find_nonmembers, find_unknown, may_name_unknown
from comms_api.database.connection import Connection
from comms_api.errors import Invalid
from comms_api.orders.model import CommandTarget, CommandTargetType
from comms_api.protocol import CANCEL_ACTION, SET_GROUP_ACTION, Action, CancelArguments
from comms_api.selections.store import find_selection

NAMES_SHOWN = 20
NONMEMBERS_SHOWN = 5
FAULTS_SHOWN = 10
NOTHING_SUBMITTED = "nothing was submitted"
"""The last sentence of a refusal; it is no fault."""

_KIND: dict[CommandTargetType, str] = {"agent": "agent", "group": "group", "server": "service"}


def choose_schema(where: str, action: Action, versions: Versions) -> ActionSchema | None:
    """Return the schema for the version of an action, or None for an unknown action.

    An action without registered versions has one schema for all. Raises `Invalid` for a version that is not registered.
    """
    if action.version in versions or not any(versions):
        return versions.get(action.version) or versions.get("")
    known = _listed([version for version in versions if version])
    named = f"version {action.version!r}" if action.version else "schema for commands without a version"
    raise Invalid(f"{where}.action.version: the action {action.name!r} has no {named}; its versions are {known}")


def admit_action(where: str, command: NewCommand, schema: ActionSchema | None, *, passes_unknown: bool) -> Action:
    """Return the action as its recipients get it; raises `Invalid` with the field's path after `where`.

    This does not check the args.
    """
    action, target = command.action, command.target
    if action.name == CANCEL_ACTION:
        return _admit_cancellation(where, command)
    if schema is not None and schema.signers and (command.signed is None or command.signed.key not in schema.signers):
        raise Invalid(f"{where}.signed: the action {action.name!r} must be signed with one of its keys")
    if schema is None:
        if passes_unknown:
            return action
        raise Invalid(f"{where}.action.name: there is no action {action.name!r}; register it with PUT /actions")
    _check_recipients(where, action, target, schema)
    if schema.drops_args:
        return msgspec.structs.replace(action, args=msgspec.Raw(b"{}"))
    return action


def _admit_cancellation(where: str, command: NewCommand) -> Action:
    """Return a signed cancellation, which names an earlier signed order by its nonce."""
    if command.signed is None:
        raise Invalid(f"{where}.action.name: submit POST /commands/{{request_id}}/cancel instead")
    try:
        is_named = msgspec.json.decode(command.action.args, type=CancelArguments).nonce is not None
    except msgspec.DecodeError:
        is_named = False
    if not is_named:
        raise Invalid(f'{where}.action.args: a signed cancellation needs {{"nonce"}}')
    return command.action


def _check_recipients(where: str, action: Action, target: CommandTarget, schema: ActionSchema) -> None:
    kind: Recipients = "services" if target.type == "server" else "agents"
    if schema.recipients not in {"any", kind}:
        raise Invalid(f"{where}.target.type: the action {action.name!r} is for {schema.recipients}, not for {kind}")
    if schema.service is not None and target.ids != [schema.service]:
        raise Invalid(f"{where}.target.id: the action {action.name!r} is for the service {schema.service!r}")


class _Groups(msgspec.Struct, frozen=True):
    groups: list[str]


def _named_groups(action: Action) -> list[str]:
    """Return the groups of a `set-group` whose args are checked; an empty list for any other action."""
    return msgspec.json.decode(action.args, type=_Groups).groups if action.name == SET_GROUP_ACTION else []


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:NAMES_SHOWN])
    return shown if len(names) <= NAMES_SHOWN else f"{shown} and {len(names) - NAMES_SHOWN} more"


async def refuse_unknown_selections(connection: Connection, user: str, submitted: Sequence[NewCommand]) -> None:
    """Raise `Invalid` for selections that have expired, or that belong to other users."""
    faults = [
        f"commands[{index}].target.id: {user!r} has no selection {target.ids[0]!r}; it may have expired"
        for index, target in enumerate(command.target for command in submitted)
        if target.type == "selection" and not await find_selection(connection, UUID(target.ids[0]), user)
    ]
    _raise_faults(faults)


async def refuse_unknown_targets(
    connection: Connection, expansions: Sequence[Expansion], orders: Sequence[int]
) -> None:
    """Raise `Invalid` for targets with unknown names or, if there are none, for targets without recipients."""
    targets = [expansion.command.target for expansion in expansions]
    faults = [
        f"commands[{index}].target.id: there is no {_KIND[target.type]} {_listed(unknown)}"
        for index, (target, count) in enumerate(zip(targets, orders, strict=True))
        if may_name_unknown(target, count) and (unknown := await find_unknown(connection, target))
    ] or [
        f"commands[{index}].target: there is no agent in {_describe(target)}"
        for index, (target, count) in enumerate(zip(targets, orders, strict=True))
        if not count and not expansions[index].command.continuous
    ]
    _raise_faults(faults)


async def refuse_unjoined_groups(connection: Connection, expansions: Sequence[Expansion]) -> None:
    """Raise `Invalid` for a `set-group` with unknown groups, or with groups that a recipient is not a member of."""
    faults = [
        f"commands[{index}].action.args.groups: {fault}"
        for index, expansion in enumerate(expansions)
        if (names := _named_groups(expansion.command.action))
        and (fault := await _find_unjoined_groups(connection, expansion, names))
    ]
    _raise_faults(faults)


def _raise_faults(faults: Sequence[str]) -> None:
    if faults:
        raise Invalid(*faults[:FAULTS_SHOWN], NOTHING_SUBMITTED)


async def _find_unjoined_groups(connection: Connection, expansion: Expansion, names: Sequence[str]) -> str:
    if unknown := await find_unknown(connection, CommandTarget("group", list(names))):
        return f"there is no group {_listed(unknown)}"
    target, chosen = expansion.command.target, expansion.recipients
    nonmembers = await find_nonmembers(connection, target, chosen, names, NONMEMBERS_SHOWN + 1)
    shown = [f"the agent {agent_id} is not a member of {_listed(missing)}" for agent_id, missing in nonmembers]
    return ", ".join(shown[:NONMEMBERS_SHOWN]) + (", and more agents" if len(shown) > NONMEMBERS_SHOWN else "")


def _describe(target: CommandTarget) -> str:
    recipients = f"the group {_listed(target.ids)}" if target.type == "group" else "the target"
    return f"{recipients} that matches the filter" if target.filter else recipients
