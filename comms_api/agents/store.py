"""SQL statements about agents; each function takes a connection, runs one statement, and returns plain values."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Interval,
    Text,
    Uuid,
    and_,
    any_,
    bindparam,
    case,
    cast,
    exists,
    func,
    literal,
    not_,
    or_,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import aggregate_order_by, insert

from comms_api.agents.configuration import RUNNING, is_in_sync
from comms_api.agents.model import Admission, Agent, AgentFilter, Visibility
from comms_api.database.connect import DISCONNECTED_AFTER
from comms_api.database.connection import Connection
from comms_api.database.liveness import LIVE_NAMES
from comms_api.database.pages import Page, continue_after, fetch_page, find_last_examined
from comms_api.database.schema import (
    agents,
    deleted_agents,
    group_members,
    groups,
    is_one_of,
    seconds_interval,
)
from comms_api.protocol import Enrollment

_SAW_IT_LATELY = agents.c.last_seen_at >= func.now() - cast(func.current_setting(DISCONNECTED_AFTER), Interval)
_NODE_IS_HERE = agents.c.node.in_(LIVE_NAMES)
STATUS: ColumnElement[str] = case(
    (agents.c.last_seen_at.is_(None), "never_connected"),
    (and_(_SAW_IT_LATELY, _NODE_IS_HERE), "active"),
    else_="disconnected",
)
"""The `AgentStatus` of a row of `agents`: the agents of a lost node are disconnected until another node sees them."""

_NODE = case((_NODE_IS_HERE, agents.c.node))
_IN_MERGE_ORDER = aggregate_order_by(groups.c.name, groups.c.precedence, groups.c.name)
_GROUPS = (
    select(func.coalesce(func.array_agg(_IN_MERGE_ORDER), text("'{}'::text[]")))
    .select_from(group_members.join(groups, groups.c.name == group_members.c.group_name))
    .where(group_members.c.agent_id == agents.c.id)
    .scalar_subquery()
)
_COLUMNS = (
    agents.c.id,
    agents.c.name,
    _GROUPS.label("groups"),
    agents.c.type,
    agents.c.version,
    agents.c.host,
    agents.c.labels,
    agents.c.external_id,
    agents.c.allowed_addresses,
    agents.c.is_blocked,
    RUNNING.label("configuration"),
    STATUS.label("status"),
    agents.c.remote_address,
    _NODE.label("node"),
    agents.c.created_at,
    agents.c.last_login_at,
    agents.c.last_seen_at,
    agents.c.poll_address,
    agents.c.polled_at,
    agents.c.displaced_polls,
    agents.c.displaced_poll_address,
    agents.c.displaced_poll_at,
    agents.c.hidden_at,
    agents.c.cloned_at,
)


class NewAgent(msgspec.Struct, frozen=True):
    """The columns of a new agent that its enrollment does not determine."""

    id: UUID
    key_hash: bytes
    external_id: str | None = None
    allowed_addresses: Sequence[str] = ()


async def insert_agent(connection: Connection, new_agent: NewAgent, enrollment: Enrollment) -> bool:
    """Add an agent; return False and add nothing when its id or its name is taken.

    An id is also taken while the states of a deleted agent with this id are being deleted.
    """
    values = {
        "id": new_agent.id,
        "name": enrollment.name,
        "key_hash": new_agent.key_hash,
        "type": enrollment.type,
        "version": enrollment.version,
        "host": enrollment.host or {},
        "labels": enrollment.labels,
        "external_id": new_agent.external_id,
        "allowed_addresses": list(new_agent.allowed_addresses),
    }
    is_deleted = exists().where(deleted_agents.c.agent_id == new_agent.id, not_(deleted_agents.c.is_cleared))
    new = select(*(literal(value, agents.c[name].type) for name, value in values.items())).where(~is_deleted)
    statement = insert(agents).from_select(list(values), new).on_conflict_do_nothing().returning(agents.c.id)
    return await connection.scalar(statement) is not None


class Holder(msgspec.Struct, frozen=True):
    """An agent that has the id or the name with which another one enrolls."""

    id: UUID
    is_silent: bool
    is_old: bool
    is_active: bool


async def find_holders(
    connection: Connection, agent_id: UUID, name: str, silent_seconds: float, age_seconds: float
) -> list[Holder]:
    """Lock and return the agents that have this id or name, in the order of their ids."""
    silence = func.now() - func.coalesce(agents.c.last_seen_at, agents.c.created_at)
    is_silent = silence > seconds_interval(silent_seconds)
    is_old = func.now() - agents.c.created_at >= seconds_interval(age_seconds)
    columns = (agents.c.id, is_silent, is_old, literal("active") == STATUS)
    statement = select(*columns).where(or_(agents.c.id == agent_id, agents.c.name == name)).order_by(agents.c.id)
    return [Holder(*row) for row in await connection.execute(statement.with_for_update())]


async def join_groups(connection: Connection, agent_id: UUID, names: Collection[str]) -> set[str]:
    """Add an agent to the named groups that exist; return their names."""
    found = select(groups.c.name, literal(agent_id, Uuid)).where(is_one_of(groups.c.name, names))
    columns = [group_members.c.group_name, group_members.c.agent_id]
    statement = insert(group_members).from_select(columns, found).returning(group_members.c.group_name)
    return set(await connection.scalars(statement)) if names else set()


async def find_groups(connection: Connection, names: Collection[str]) -> set[str]:
    """Return the names of existing groups among `names`."""
    return set(await connection.scalars(select(groups.c.name).where(is_one_of(groups.c.name, names))))


async def find_agent(connection: Connection, agent_id: UUID) -> Agent | None:
    """Return one agent, or None."""
    row = await connection.first(select(*_COLUMNS).where(agents.c.id == agent_id))
    return Agent(**row) if row else None


SCANNED_MAXIMUM = 5_000
"""A page that is filtered by `in_sync` computes the configurations of at most this many agents."""


async def list_agents(
    connection: Connection, agent_filter: AgentFilter, visibility: Visibility, after: UUID | None, limit: int
) -> Page[Agent]:
    """Return a page of agents ordered by id, starting after `after`.

    With `in_sync`, it examines at most `SCANNED_MAXIMUM` agents that match the other filters, so it may be short and
    not the last.
    """
    found = [*visibility_conditions(visibility), *conditions(msgspec.structs.replace(agent_filter, in_sync=None))]
    if after is not None:
        found.append(agents.c.id > after)
    end: UUID | None = None
    if agent_filter.in_sync is not None:
        end = await find_last_examined(connection, agents.c.id, found, SCANNED_MAXIMUM)
        found += conditions(AgentFilter(in_sync=agent_filter.in_sync))
    if end is not None:
        found.append(agents.c.id <= end)
    statement = select(*_COLUMNS).where(*found).order_by(agents.c.id)
    page = await fetch_page(connection, statement, ["id"], limit, lambda row: Agent(**row))
    return continue_after(page, end)


_YESTERDAY = func.now() - seconds_interval(86_400)
IS_PROVED = func.coalesce(agents.c.cloned_at > _YESTERDAY, literal(value=False))
_ALTERNATES = and_(agents.c.displaced_poll_at > _YESTERDAY, agents.c.displaced_poll_address != agents.c.poll_address)


def visibility_conditions(visibility: Visibility) -> list[ColumnElement[bool]]:
    """Return the conditions on the rows of `agents` that are visible."""
    hidden = agents.c.hidden_at
    found: list[ColumnElement[bool]] = [hidden.is_not(None) if visibility.is_hidden else hidden.is_(None)]
    if visibility.clones is not None:
        found.append(IS_PROVED if visibility.clones == "proved" else or_(IS_PROVED, _ALTERNATES))
    return found


def conditions(agent_filter: AgentFilter) -> list[ColumnElement[bool]]:
    """Return the conditions on the rows of `agents` that match a filter."""
    name, version, os = agent_filter.name, agent_filter.version, agent_filter.os
    found = []
    if name is not None:  # equality uses the index on the name
        found.append(_like(agents.c.name, name) if "*" in name else agents.c.name == name)
    if version is not None:
        found.append(_like(agents.c.version, version))
    if os is not None:
        system = agents.c.host["os"]
        found.append(or_(_like(system["name"].as_string(), os), _like(system["type"].as_string(), os)))
    if agent_filter.status is not None:
        found.append(literal(agent_filter.status) == STATUS)
    if agent_filter.group is not None:
        members = select(group_members.c.agent_id).where(group_members.c.group_name == agent_filter.group)
        found.append(agents.c.id.in_(members))
    if agent_filter.node is not None:
        found.append(literal(agent_filter.node) == _NODE)
    if agent_filter.in_sync is not None:
        found.append(is_in_sync() if agent_filter.in_sync else not_(is_in_sync()))
    return found + [agents.c.labels[key].as_string() == value for key, value in agent_filter.labels.items()]


def _like(column: ColumnElement[str], pattern: str) -> ColumnElement[bool]:
    escaped = pattern.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")
    return column.ilike(escaped.replace("*", "%"), escape="\\")


async def update_agent(connection: Connection, agent_id: UUID, changes: Mapping[str, Any], **expected: object) -> bool:
    """Change columns of an agent if the `expected` columns match; return whether they did."""
    is_expected = [agents.c[name] == value for name, value in expected.items()]
    statement = agents.update().where(agents.c.id == agent_id, *is_expected).values(changes).returning(agents.c.id)
    return await connection.scalar(statement) is not None


async def set_blocked(connection: Connection, ids: Collection[UUID], *, is_blocked: bool) -> list[UUID]:
    """Block or unblock agents; return the agents whose state changed."""
    others = select(agents.c.id).where(is_one_of(agents.c.id, ids), agents.c.is_blocked != literal(is_blocked))
    # In order, so that no other transaction that locks several agents can deadlock.
    locked = others.order_by(agents.c.id).with_for_update(key_share=True).cte("locked")
    statement = agents.update().where(agents.c.id == locked.c.id).values(is_blocked=is_blocked)
    return await connection.scalars(statement.returning(agents.c.id))


EXTERNAL_TYPE = "external"
"""The type of agents that came from an external database."""

_ADMISSION = (
    agents.c.id,
    agents.c.key_hash,
    agents.c.is_blocked,
    agents.c.allowed_addresses,
    agents.c.type == EXTERNAL_TYPE,
    agents.c.next_key_hash,
    agents.c.hidden_at.is_not(None),
    case((STATUS == "active", agents.c.younger_instance)),
)

FIND_ADMISSIONS = select(agents.c.external_id, *_ADMISSION).where(
    or_(
        agents.c.id == any_(bindparam("ids", type_=ARRAY(Uuid))),
        agents.c.external_id == any_(bindparam("external_ids", type_=ARRAY(Text))),
    )
)


async def find_admissions(connection: Connection, names: Sequence[UUID | str]) -> list[Admission | None]:
    """Return the admissions of agents, by id or external id, in the order of `names`; None for an unknown agent."""
    external_ids = [name for name in names if isinstance(name, str)]
    ids = [name for name in names if isinstance(name, UUID)]
    found: dict[UUID | str | None, Admission] = {}
    for external_id, *columns in await connection.execute(FIND_ADMISSIONS, {"ids": ids, "external_ids": external_ids}):
        admission = Admission(*columns)
        found[admission.id] = found[external_id] = admission
    return [found.get(name) for name in names]


async def find_admission(connection: Connection, name: UUID | str) -> Admission | None:
    """Return the admission of one agent by its id or external id, or None."""
    return (await find_admissions(connection, [name]))[0]


async def show_again(connection: Connection, agent_id: UUID) -> bool:
    """Show a hidden agent again, because it is back; return whether it exists."""
    values = {"hidden_at": None, "last_seen_at": func.now()}
    statement = agents.update().where(agents.c.id == agent_id).values(values).returning(agents.c.id)
    return await connection.scalar(statement) is not None


async def lock_agent(connection: Connection, agent_id: UUID) -> None:
    """Lock an agent against changes until this transaction ends."""
    await connection.execute(select(agents.c.id).where(agents.c.id == agent_id).with_for_update())


OWN_TYPE = case((agents.c.type == EXTERNAL_TYPE, ""), else_=agents.c.type)
"""The type of an agent whose key an external database may no longer change."""


async def delete_agent(connection: Connection, agent_id: UUID) -> bool:
    """Delete an agent and its memberships; return whether it existed."""
    statement = agents.delete().where(agents.c.id == agent_id).returning(agents.c.id)
    return await connection.scalar(statement) is not None
