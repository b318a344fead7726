"""Resolve agents by id or by name; a text in the form of a UUID is an id."""

import re
from collections.abc import Collection
from uuid import UUID

from sqlalchemy import select

from comms_api.database.connection import Connection
from comms_api.database.schema import agents, is_one_of
from comms_api.errors import NotFound

_ID = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")


def read_id(text: str) -> UUID | None:
    """Return the text as an id, or None if it is a name."""
    return UUID(text) if _ID.fullmatch(text) else None


async def find_ids(connection: Connection, texts: Collection[str]) -> dict[str, UUID]:
    """Map texts to agents' ids; skip unknown names, and do not look up ids."""
    found = {text: agent_id for text in texts if (agent_id := read_id(text)) is not None}
    names = [text for text in texts if text not in found]
    if not names:
        return found
    rows = await connection.execute(select(agents.c.name, agents.c.id).where(is_one_of(agents.c.name, names)))
    return found | {row.name: row.id for row in rows}


async def find_names(connection: Connection, ids: Collection[UUID]) -> dict[str, str]:
    """Map agents' ids, as texts, to their names; skip unknown ids."""
    rows = await connection.execute(select(agents.c.id, agents.c.name).where(is_one_of(agents.c.id, ids)))
    return {str(row.id): row.name for row in rows}


async def get_ids(connection: Connection, texts: Collection[str]) -> list[UUID]:
    """Return the ids of the named agents; raises `NotFound` for the first unknown name."""
    found = await find_ids(connection, texts)
    for text in texts:
        if text not in found:
            raise NotFound(f"There is no agent {text!r}.")
    return list(dict.fromkeys(found[text] for text in texts))
