"""The statements of registered actions."""

from collections.abc import Collection

import msgspec
from sqlalchemy import ColumnElement, Table, delete, func, select, text, union
from sqlalchemy.dialects.postgresql import insert

from comms_api.actions.model import BUILT_IN, BUILT_IN_VERSIONS, ActionSchema, NewAction, RegisteredAction, Versions
from comms_api.database.connection import Connection
from comms_api.database.schema import action_versions, actions

_LOAD = text("""
    SELECT name, version, recipients, signers, CASE WHEN version = '' OR is_used THEN schema END AS schema FROM (
        SELECT name, '' AS version, recipients, signers, schema FROM actions WHERE name = ANY(CAST(:names AS text[]))
        UNION ALL
        SELECT name, version, recipients, signers, schema FROM action_versions WHERE name = ANY(CAST(:names AS text[]))
    ) AS registered LEFT JOIN (
        SELECT DISTINCT name, version, true AS is_used
        FROM unnest(CAST(:names AS text[]), CAST(:versions AS text[])) AS used (name, version)
    ) AS used USING (name, version)""")


async def load_versions(connection: Connection, used: Collection[tuple[str, str]]) -> dict[str, Versions]:
    """Return the versions of the actions with these names; only the schemas of the `used` versions are read."""
    registered: dict[str, dict[str, ActionSchema | None]] = {}
    parameters = {"names": [name for name, _ in used], "versions": [version for _, version in used]}
    for row in await connection.execute(_LOAD, parameters):
        schema: ActionSchema | None = None
        if row.schema is not None:
            schema = ActionSchema(bytes(row.schema).decode(), row.recipients, signers=row.signers)
        registered.setdefault(row.name, {})[row.version] = schema
    return registered | {name: BUILT_IN_VERSIONS[name] for name, _ in used if name in BUILT_IN_VERSIONS}


async def list_names(connection: Connection, limit: int) -> list[str]:
    """Return the names of registered actions, at most `limit`."""
    names = union(select(actions.c.name), select(action_versions.c.name)).subquery()
    return await connection.scalars(select(names.c.name).order_by(names.c.name).limit(limit))


async def store_action(connection: Connection, name: str, action: NewAction, user: str) -> None:
    """Register an action; it replaces an earlier one of the same name and version."""
    values = {
        "name": name,
        "schema": action.schema,
        "recipients": action.recipients,
        "user_name": user,
        "signers": action.signers,
    }
    table = actions
    if action.version:
        table, values = action_versions, values | {"version": action.version}
    statement = insert(table).values(values)
    await connection.execute(statement.on_conflict_do_update(index_elements=table.primary_key.columns, set_=values))


async def count_versions(connection: Connection, name: str, besides: str) -> int:
    """Return how many versions an action has, without the version `besides`."""
    others = action_versions.c.name == name, action_versions.c.version != besides
    return await connection.scalar(select(func.count()).where(*others)) or 0


async def list_actions(connection: Connection) -> list[RegisteredAction]:
    """Return every version of every action, built in or registered, by name and version."""
    known = [
        RegisteredAction(name, msgspec.Raw(kind.schema), kind.recipients, None, None) for name, kind in BUILT_IN.items()
    ]
    for table in (actions, action_versions):
        for row in await connection.execute(select(table)):
            version = row.version if table is action_versions else ""
            known.append(
                RegisteredAction(
                    row.name, row.schema, row.recipients, row.user_name, row.created_at, version, row.signers
                )
            )
    return sorted(known, key=lambda action: (action.name, action.version))


async def delete_action(connection: Connection, name: str, version: str | None) -> bool:
    """Delete a version of an action, or the action with all of its versions; return whether there was any."""
    if version:
        return await _delete(connection, action_versions, name, action_versions.c.version == version)
    was_versioned = version is None and await _delete(connection, action_versions, name)
    return await _delete(connection, actions, name) or was_versioned


async def _delete(connection: Connection, table: Table, name: str, *conditions: ColumnElement[bool]) -> bool:
    return bool(await connection.change(delete(table).where(table.c.name == name, *conditions)))
