"""The statements of states."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from sqlalchemy import ColumnElement, Text, cast, func, or_, select, text, tuple_

from comms_api.database.connection import Connection, Row
from comms_api.database.pages import Page, continue_after, encode_cursor, equal, fetch_page
from comms_api.database.schema import states
from comms_api.states.arrays import array_literal
from comms_api.states.model import STATE_BYTES_MAXIMUM, State, StateCursor, StateFilter, StateKey

# Arrays are sent as their literals, and documents with a separator that JSON cannot have in it: asyncpg takes as long
# to encode an element as PostgreSQL to store it.
_ARRAYS = ", ".join(
    f"CAST(CAST(:{name} AS text) AS {kind}[])"
    for name, kind in {"agents": "uuid", "modules": "text", "collectors": "text", "ids": "text"}.items()
)

_KEYS = f"unnest({_ARRAYS})"
_SEPARATOR = b"\x1f"

_LOCK_AGENTS = text("""
    SELECT pg_advisory_xact_lock(hash) FROM (
        SELECT DISTINCT hashtextextended(CAST(id AS text), 0) AS hash
        FROM unnest(CAST(:ids AS uuid[])) AS id ORDER BY hash) AS sorted""")


async def lock_agents(connection: Connection, ids: Iterable[str]) -> None:
    """Let one transaction at a time change the states of each agent.

    The locks are taken in the order of their numbers, so two transactions never wait for each other.
    """
    await connection.execute(_LOCK_AGENTS, {"ids": list(ids)})


_ADVANCE_SEQUENCES = text("""
    WITH advanced AS (
        INSERT INTO state_sequences (agent_id, number)
        SELECT * FROM unnest(CAST(:agents AS uuid[]), CAST(:numbers AS bigint[]))
        ON CONFLICT (agent_id) DO UPDATE SET number = EXCLUDED.number
        WHERE state_sequences.number < EXCLUDED.number)
    SELECT CAST(agent_id AS text), number FROM state_sequences WHERE agent_id = ANY(CAST(:agents AS uuid[]))""")


async def advance_sequences(connection: Connection, numbers: Mapping[str, int]) -> dict[str, int]:
    """Raise the newest number of each agent, which never decreases, and return the old ones. Agents must be locked."""
    parameters = {"agents": list(numbers), "numbers": list(numbers.values())}
    return {row.agent_id: row.number for row in await connection.execute(_ADVANCE_SEQUENCES, parameters)}


_FIND_STATES = text(f"""
    SELECT ordinality, convert_to(CAST(data AS text), 'UTF8') FROM states
    JOIN {_KEYS} WITH ORDINALITY AS requested (agent_id, module, collector, id)
        USING (agent_id, module, collector, id)""")

_FIND_FEW_BYTES = text(f"""
    SELECT ordinality, CASE WHEN total <= :bytes THEN convert_to(document, 'UTF8') END FROM (
        SELECT ordinality, CAST(data AS text) AS document,
            sum(octet_length(CAST(data AS text))) OVER () AS total
        FROM states JOIN {_KEYS} WITH ORDINALITY AS requested (agent_id, module, collector, id)
            USING (agent_id, module, collector, id)) AS found""")

_FIND_SIZES = text(f"""
    SELECT ordinality, octet_length(CAST(data AS text)) FROM states
    JOIN {_KEYS} WITH ORDINALITY AS requested (agent_id, module, collector, id)
        USING (agent_id, module, collector, id)""")

STATES_MEASURED = 1_000
"""The number of states that one statement measures, so that it ends in time: PostgreSQL decompresses each."""


async def find_states(
    connection: Connection, keys: Sequence[StateKey], bytes_maximum: int
) -> dict[StateKey, bytes] | None:
    """Return the existing documents among `keys`, or None if they have more bytes in total."""
    if len(keys) * STATE_BYTES_MAXIMUM <= bytes_maximum:
        return {keys[number - 1]: data for number, data in await connection.execute(_FIND_STATES, _columns(keys))}
    found: dict[StateKey, bytes] = {}
    for part in _parts(keys):
        parameters = _columns(part) | {"bytes": bytes_maximum}
        for number, data in await connection.execute(_FIND_FEW_BYTES, parameters):
            if data is None:
                return None
            found[part[number - 1]] = data
            bytes_maximum -= len(data)
    return found


async def find_sizes(connection: Connection, keys: Sequence[StateKey]) -> dict[StateKey, int]:
    """Return the sizes in bytes of the existing documents among `keys`."""
    sizes: dict[StateKey, int] = {}
    for part in _parts(keys):
        rows = await connection.execute(_FIND_SIZES, _columns(part))
        sizes |= {part[number - 1]: size for number, size in rows}
    return sizes


def _parts(keys: Sequence[StateKey]) -> Iterator[Sequence[StateKey]]:
    for start in range(0, len(keys), STATES_MEASURED):
        yield keys[start : start + STATES_MEASURED]


_NEW_STATES = f"""
    unnest({_ARRAYS}, string_to_array(:documents, chr({_SEPARATOR[0]})))
    AS new (agent_id, module, collector, id, data)"""

_INSERT_STATES = text(f"""
    INSERT INTO states (agent_id, module, collector, id, data)
    SELECT agent_id, module, collector, id, CAST(data AS json) FROM {_NEW_STATES}""")

_UPDATE_STATES = text(f"""
    UPDATE states SET data = CAST(new.data AS json), updated_at = now() FROM {_NEW_STATES}
    WHERE states.agent_id = new.agent_id AND states.module = new.module
        AND states.collector = new.collector AND states.id = new.id""")


async def insert_states(connection: Connection, documents: Mapping[StateKey, bytes]) -> None:
    """Write the documents of states that are not there; raises `Duplicate` if one is."""
    await connection.execute(_INSERT_STATES, _rows(documents))


async def update_states(connection: Connection, documents: Mapping[StateKey, bytes]) -> None:
    """Write the documents of states that are there, whole. Two statements cost less than one upsert."""
    await connection.execute(_UPDATE_STATES, _rows(documents))


_DELETE_STATES = text(f"DELETE FROM states WHERE (agent_id, module, collector, id) IN (SELECT * FROM {_KEYS})")


async def delete_states(connection: Connection, keys: Iterable[StateKey]) -> None:
    """Delete states."""
    await connection.execute(_DELETE_STATES, _columns(keys))


def _columns(keys: Iterable[StateKey]) -> dict[str, object]:
    agents, modules, collectors, ids = zip(*keys, strict=True)
    return {
        "agents": array_literal(agents),
        "modules": array_literal(modules),
        "collectors": array_literal(collectors),
        "ids": array_literal(ids),
    }


def _rows(documents: Mapping[StateKey, bytes]) -> dict[str, object]:
    return _columns(documents) | {"documents": _SEPARATOR.join(documents.values()).decode()}


_KEY_NAMES = ("agent_id", "module", "collector", "id")

SEARCHED_STATES = 2_000
SEARCHED_BYTES = 4 * 2**20
"""A page of a search examines at most this many states, and about this many bytes as they are stored."""


async def list_states(
    connection: Connection, state_filter: StateFilter, after: StateCursor | None, limit: int
) -> Page[State]:
    """Return a page of states in order of their keys, starting after `after`.

    With `contains`, a page may be short and not the last.
    """
    key = [states.c[name] for name in _KEY_NAMES]
    statement = select(
        states.c.agent_id,
        states.c.module,
        states.c.collector,
        states.c.id,
        states.c.data,
        states.c.created_at,
        states.c.updated_at,
    )
    found = [*equal(((states.c.agent_id, state_filter.agent_id), (states.c.module, state_filter.module)))]
    if after is not None:
        found.append(tuple_(*key) > after)
    end: Row | None = None
    if (contains := state_filter.contains) is not None:
        end = await _find_last_searched(connection, found)
        document = cast(states.c.data, Text)
        found.append(or_(func.strpos(states.c.id, contains) > 0, func.strpos(document, contains) > 0))
    if end is not None:
        found.append(tuple_(*key) <= tuple(end))
    page = await fetch_page(
        connection, statement.where(*found).order_by(*key), _KEY_NAMES, limit, lambda row: State(**row)
    )
    return continue_after(page, None if end is None else encode_cursor(tuple(end)))


async def _find_last_searched(connection: Connection, found: Sequence[ColumnElement[bool]]) -> Row | None:
    """Return the key of the last state that a page of a search examines; None if it examines all."""
    key = [states.c[name] for name in _KEY_NAMES]
    stored = func.pg_column_size(states.c.data)
    examined = select(*key, stored.label("stored")).where(*found).order_by(*key).limit(SEARCHED_STATES + 1).subquery()
    ordered = [examined.c[name] for name in _KEY_NAMES]
    measured = select(
        *ordered,
        func.row_number().over(order_by=ordered).label("number"),
        func.sum(examined.c.stored).over(order_by=ordered).label("total"),
    ).subquery()
    is_last = or_(measured.c.number == SEARCHED_STATES, measured.c.total >= SEARCHED_BYTES)
    last = select(*(measured.c[name] for name in _KEY_NAMES)).where(is_last).order_by(measured.c.number).limit(1)
    return await connection.first(last)
