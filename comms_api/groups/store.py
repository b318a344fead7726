"""SQL statements about groups."""

from collections.abc import Collection
from uuid import UUID

from sqlalchemy import Uuid, func, literal, select
from sqlalchemy.dialects.postgresql import insert

from comms_api.database.connection import Connection
from comms_api.database.schema import agents, group_members, groups, is_one_of
from comms_api.groups.model import Group

_AGENTS = select(func.count()).where(group_members.c.group_name == groups.c.name).scalar_subquery().label("agents")
_SELECT = select(groups.c.name, groups.c.precedence, _AGENTS, groups.c.created_at)


async def insert_group(connection: Connection, name: str, precedence: int) -> bool:
    """Add a group; return False when its name is taken."""
    statement = (
        insert(groups).values(name=name, precedence=precedence).on_conflict_do_nothing().returning(groups.c.name)
    )
    return await connection.scalar(statement) is not None


async def list_groups(connection: Connection, after: str | None, limit: int) -> list[Group]:
    """Return groups by name, starting after `after`."""
    statement = _SELECT.order_by(groups.c.name).limit(limit)
    if after is not None:
        statement = statement.where(groups.c.name > after)
    return [Group(**row) for row in await connection.execute(statement)]


async def find_group(connection: Connection, name: str) -> Group | None:
    """Return the group of this name."""
    row = await connection.first(_SELECT.where(groups.c.name == name))
    return Group(**row) if row else None


async def delete_group(connection: Connection, name: str) -> bool:
    """Delete a group but not its agents; return whether it existed."""
    statement = groups.delete().where(groups.c.name == name).returning(groups.c.name)
    return await connection.scalar(statement) is not None


async def lock_group(connection: Connection, name: str) -> bool:
    """Return whether the group exists, and keep it from being deleted until the transaction ends."""
    statement = select(groups.c.name).where(groups.c.name == name).with_for_update(key_share=True)
    return await connection.scalar(statement) is not None


async def is_group(connection: Connection, name: str) -> bool:
    """Return whether a group of this name exists."""
    return await connection.scalar(select(groups.c.name).where(groups.c.name == name)) is not None


async def find_unknown_agents(connection: Connection, ids: Collection[UUID]) -> set[UUID]:
    """Return the `ids` that belong to no agent."""
    return set(ids) - set(await connection.scalars(select(agents.c.id).where(is_one_of(agents.c.id, ids))))


async def update_group(connection: Connection, name: str, precedence: int) -> bool:
    """Change a group; return whether it exists."""
    statement = groups.update().where(groups.c.name == name).values(precedence=precedence).returning(groups.c.name)
    return await connection.scalar(statement) is not None


async def insert_members(connection: Connection, name: str, ids: Collection[UUID]) -> list[UUID]:
    """Add agents to a group and return the new members."""
    # The foreign key locks the agents in this order.
    found = select(literal(name), agents.c.id.cast(Uuid)).where(is_one_of(agents.c.id, ids)).order_by(agents.c.id)
    columns = [group_members.c.group_name, group_members.c.agent_id]
    statement = insert(group_members).from_select(columns, found).on_conflict_do_nothing()
    return await connection.scalars(statement.returning(group_members.c.agent_id))


async def delete_members(connection: Connection, name: str, ids: Collection[UUID]) -> list[UUID]:
    """Remove agents from a group; return the former members."""
    is_member = (group_members.c.group_name == name, is_one_of(group_members.c.agent_id, ids))
    return await connection.scalars(group_members.delete().where(*is_member).returning(group_members.c.agent_id))
