"""The statements of registered actions."""

import msgspec
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert

from comms_api.actions.model import BUILT_IN, ActionSchema, NewAction, RegisteredAction
from comms_api.database.connection import Connection
from comms_api.database.schema import actions, is_one_of


async def load_schemas(connection: Connection, names: set[str]) -> dict[str, ActionSchema]:
    """Return the schemas of the named actions that are built in or registered."""
    known = {name: BUILT_IN[name] for name in names & BUILT_IN.keys()}
    if unknown := names - known.keys():
        rows = await connection.execute(select(actions).where(is_one_of(actions.c.name, unknown)))
        known |= {row.name: ActionSchema(bytes(row.schema).decode(), row.recipients) for row in rows}
    return known


async def store_action(connection: Connection, name: str, action: NewAction, user: str) -> None:
    """Register an action; it replaces an earlier one of the same name."""
    values = {"name": name, "schema": action.schema, "recipients": action.recipients, "user_name": user}
    statement = insert(actions).values(values)
    await connection.execute(statement.on_conflict_do_update(index_elements=[actions.c.name], set_=values))


async def list_actions(connection: Connection) -> list[RegisteredAction]:
    """Return every action, built in or registered, by name."""
    rows = await connection.execute(select(actions))
    registered = [RegisteredAction(row.name, row.schema, row.recipients, row.user_name, row.created_at) for row in rows]
    known = [
        RegisteredAction(name, msgspec.Raw(kind.schema), kind.recipients, None, None) for name, kind in BUILT_IN.items()
    ]
    return sorted(registered + known, key=lambda action: action.name)


async def delete_action(connection: Connection, name: str) -> bool:
    """Delete a registered action; return whether it existed."""
    return await connection.scalar(actions.delete().where(actions.c.name == name).returning(actions.c.name)) is not None
