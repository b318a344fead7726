"""The recipients of a command: a statement and the names for each kind of target."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import ARRAY, Select, Text, Uuid, any_, bindparam, exists, func, literal, select, text

from comms_api.agents.model import AgentFilter
from comms_api.agents.naming import find_ids, read_id
from comms_api.agents.store import conditions
from comms_api.commands.model import NewCommand, Offline
from comms_api.database.connection import Connection
from comms_api.database.schema import agents, finished_orders, group_members, groups, is_one_of, selections, users
from comms_api.orders.model import CommandTarget, CommandTargetType
from comms_api.orders.targets import service_id

SERVICES = frozenset({"rbac", "vulnerability-detector"})
"""The services of every fleet; users with the role `service` are further services."""

_AGENTS = bindparam("named_agents", type_=ARRAY(Uuid))
_GROUPS = bindparam("named_groups", type_=ARRAY(Text))
_GROUP = bindparam("named_group", type_=Text)
_SERVICE = bindparam("named_service", type_=Uuid)
_SELECTION = bindparam("named_selection", type_=Uuid)

_MEMBERS: Select[Any] = select(group_members.c.agent_id).where(group_members.c.group_name == _GROUP)
_RECIPIENTS: Mapping[CommandTargetType, Select[Any]] = {
    "all": select(agents.c.id.label("agent_id")),
    "agent": select(agents.c.id.label("agent_id")).where(agents.c.id == any_(_AGENTS)),
    "group": select(agents.c.id.label("agent_id")).where(
        agents.c.id.in_(select(group_members.c.agent_id).where(group_members.c.group_name == any_(_GROUPS)))
    ),
    "server": select(_SERVICE.label("agent_id")),
    "selection": select(agents.c.id.label("agent_id")).where(
        agents.c.id.in_(select(func.unnest(selections.c.agent_ids)).where(selections.c.id == _SELECTION))
    ),
}
CONSTANT_RECIPIENTS = frozenset({_MEMBERS, *_RECIPIENTS.values()})
"""The constant statements of recipients; all others are built for a single command."""

MOST_RECIPIENTS = (_RECIPIENTS["agent"], _MEMBERS)
"""The recipients of most commands: agents by name, and one group."""

_IS_ACTIVE = conditions(AgentFilter(status="active"))


def recipients(target: CommandTarget, offline: Offline = "wait") -> Select[Any]:
    """Return a statement that selects a target's recipients, each once, as `agent_id`.

    Run it with `target_parameters`. Targets of one kind without a filter share one statement.
    """
    if offline == "skip":
        return _RECIPIENTS[target.type].where(*_IS_ACTIVE, *(conditions(target.filter) if target.filter else ()))
    if target.type == "group" and len(target.ids) == 1 and target.filter is None:
        return _MEMBERS
    statement = _RECIPIENTS[target.type]
    return statement.where(*conditions(target.filter)) if target.filter else statement


def target_parameters(target: CommandTarget) -> dict[str, Any]:
    """Return the parameters of the statement of a target's recipients."""
    match target.type:
        case "agent":
            return {"named_agents": agent_ids(target.ids)}
        case "group":
            return {"named_groups": target.ids, "named_group": target.ids[0]}
        case "server":
            return {"named_service": service_id(target.ids[0])}
        case "selection":
            return {"named_selection": UUID(target.ids[0])}
        case "all":
            return {}


def recipients_again(request_id: UUID, statuses: Sequence[str], target_type: CommandTargetType) -> Select[Any]:
    """Return a statement that selects recipients whose orders ended in one of `statuses`; no deleted agents."""
    statement = (
        select(finished_orders.c.agent_id)
        .where(finished_orders.c.request_id == request_id, is_one_of(finished_orders.c.status, statuses))
        .distinct()
    )
    if target_type == "server":
        return statement
    return statement.where(exists().where(agents.c.id == finished_orders.c.agent_id))


def named_recipients(target: CommandTarget) -> list[UUID]:
    """Return the recipients that a target of agents or of a service names."""
    return [service_id(target.ids[0])] if target.type == "server" else agent_ids(target.ids)


def agent_ids(names: Sequence[str]) -> list[UUID]:
    """Return the names that are ids, as ids."""
    return [agent_id for name in names if (agent_id := read_id(name)) is not None]


async def with_agent_ids(connection: Connection, submitted: Sequence[NewCommand]) -> list[NewCommand]:
    """Replace agents' names in targets with ids, each once; leave unknown names unchanged."""
    found = await find_ids(connection, {name for command in submitted for name in agent_names(command.target)})

    def by_id(command: NewCommand) -> NewCommand:
        if not agent_names(command.target):
            return command
        ids = dict.fromkeys(str(found.get(name, name)) for name in command.target.ids)
        return msgspec.structs.replace(command, target=msgspec.structs.replace(command.target, id=list(ids)))

    return [by_id(command) for command in submitted]


def agent_names(target: CommandTarget) -> list[str]:
    """Return the names in a target that are names of agents and not ids."""
    return [name for name in target.ids if read_id(name) is None] if target.type == "agent" else []


def may_name_unknown(target: CommandTarget, orders: int) -> bool:
    """Return whether a target that has become `orders` orders may contain an unknown name."""
    if target.type == "server":
        return not SERVICES.issuperset(target.ids)
    if target.type == "agent":
        return orders < len(target.ids)
    return target.type == "group" and (orders == 0 or len(target.ids) > 1)


async def find_unknown(connection: Connection, target: CommandTarget) -> list[str]:
    """Return the unknown names in a target."""
    if target.type == "agent":
        known = set(await connection.scalars(recipients(CommandTarget("agent", target.id)), target_parameters(target)))
        return [name for name in target.ids if not known.intersection(agent_ids([name]))]
    if target.type == "group":
        found = set(await connection.scalars(select(groups.c.name).where(is_one_of(groups.c.name, target.ids))))
        return [name for name in target.ids if name not in found]
    if target.type == "server" and not SERVICES.issuperset(target.ids):
        services = select(users.c.name).where(is_one_of(users.c.name, target.ids), users.c.role == "service")
        return sorted(set(target.ids) - SERVICES - set(await connection.scalars(services)))
    return []


async def find_nonmembers(
    connection: Connection, target: CommandTarget, chosen: Select[Any], names: Sequence[str], limit: int
) -> list[tuple[UUID, list[str]]]:
    """Return the first recipients that are not members of all these groups, each with the groups it lacks."""
    recipient = chosen.subquery("recipient")
    is_recipient = group_members.c.agent_id == recipient.c.agent_id
    named = func.unnest(literal(list(names), ARRAY(Text))).column_valued("name")
    joined = select(func.count()).where(is_recipient, group_members.c.group_name.in_(select(named))).scalar_subquery()
    missing = select(named).except_(select(group_members.c.group_name).where(is_recipient)).order_by(text("1"))
    statement = (
        select(recipient.c.agent_id, func.array(missing.scalar_subquery()))
        .where(joined < len(set(names)))
        .order_by(recipient.c.agent_id)
        .limit(limit)
    )
    return [(row[0], row[1]) for row in await connection.execute(statement, target_parameters(target))]
