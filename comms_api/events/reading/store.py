"""The statements that read batches of events."""

from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Text,
    Uuid,
    and_,
    cast,
    func,
    literal,
    literal_column,
    or_,
    select,
    text,
    true,
)
from sqlalchemy.dialects.postgresql import JSONB

from comms_api.database.connection import Connection
from comms_api.database.pages import equal
from comms_api.database.schema import event_batches, group_members, is_one_of
from comms_api.events.model import EventBatch
from comms_api.events.reading.model import EventFilter
from comms_api.events.reading.walks import FIRST, Header, Walk

_BATCH = (
    event_batches.c.id,
    event_batches.c.agent_id,
    event_batches.c.events,
    cast(event_batches.c.streams, Text),
    event_batches.c.content,
)
_ANY_COLLECTOR: ColumnElement[Any] = literal_column("CAST('$.*[*] ? (@ == $name)' AS jsonpath)")


async def count_events(
    connection: Connection, bounds: Sequence[UUID], event_filter: EventFilter, limit: int
) -> Sequence[tuple[int, int, int]]:
    """Return the number of events of matching batches, and of all examined batches, of each interval with batches.

    Each comes with the interval's index, from 1. It examines the newest `limit` batches.
    """
    columns = event_batches.c
    is_match = and_(true(), *_unindexed_conditions(event_filter)).label("is_match")
    is_within = (columns.id >= bounds[0], columns.id < bounds[-1], *equal([(columns.agent_id, event_filter.agent_id)]))
    examined = (
        select(columns.id, columns.events, is_match)
        .where(*is_within)
        .order_by(columns.id.desc())
        .limit(limit)
        .subquery()
    )
    bucket = func.width_bucket(examined.c.id, literal(list(bounds), ARRAY(Uuid))).label("bucket")
    events = func.coalesce(func.sum(examined.c.events).filter(examined.c.is_match), 0)
    statement = select(bucket, events, func.count()).group_by(bucket).order_by(bucket)
    return [(number, int(found), batches) for number, found, batches in await connection.execute(statement)]


async def list_headers(connection: Connection, walk: Walk, event_filter: EventFilter, limit: int) -> list[Header]:
    """Return those of the next `limit` batches that may match, and the last one in any case."""
    columns = event_batches.c
    examined = (
        select(
            *(columns.id, columns.xact, columns.events, func.octet_length(columns.content).label("size")),
            and_(true(), *walk.match, *_unindexed_conditions(event_filter)).label("is_match"),
            func.row_number().over(order_by=walk.sorting).label("place"),
        )
        .where(*walk.conditions, *equal([(columns.agent_id, event_filter.agent_id)]))
        .order_by(*walk.sorting)
        .limit(limit)
        .subquery()
    )
    following = func.lead(examined.c.place).over(order_by=examined.c.place).label("following")
    marked = select(examined, following).subquery()
    shown = select(*(marked.c[name] for name in Header.__struct_fields__))
    shown = shown.where(or_(marked.c.is_match, marked.c.following.is_(None))).order_by(marked.c.place)
    return [Header(*row) for row in await connection.execute(shown)]


def _unindexed_conditions(event_filter: EventFilter) -> Iterator[ColumnElement[bool]]:
    columns, module, collector = event_batches.c, event_filter.module, event_filter.collector
    if event_filter.group is not None:
        members = select(group_members.c.agent_id).where(group_members.c.group_name == event_filter.group)
        yield columns.agent_id.in_(members)
    has_stream: Any = None
    if module is not None and collector is not None:
        has_stream = columns.streams.contains(literal({module: [collector]}, JSONB))
    elif module is not None:
        has_stream = columns.streams.has_key(module)
    elif collector is not None:
        names = func.jsonb_build_object("name", cast(literal(collector), Text))
        has_stream = func.jsonb_path_exists(columns.streams, _ANY_COLLECTOR, names)
    if has_stream is not None:
        yield or_(has_stream, columns.streams.is_(None))


async def list_batches(connection: Connection, ids: Sequence[UUID]) -> dict[UUID, EventBatch]:
    """Return the batches of these ids that still exist."""
    batch_id = event_batches.c.id
    conditions = (is_one_of(batch_id, ids), batch_id >= min(ids), batch_id <= max(ids))
    rows = await connection.execute(select(*_BATCH).where(*conditions))
    return {row[0]: EventBatch(*row) for row in rows}


class Horizon(msgspec.Struct, frozen=True):
    """The end of what followers can read."""

    cluster: str
    """The system identifier of the PostgreSQL cluster."""

    oldest_open: int
    """The oldest open transaction; without any, the next one."""

    next: int
    """The next transaction."""

    xact: int
    """The transaction of the newest batch that followers can read; 0 without any."""

    last_event: UUID
    """The last event of that batch."""


_FIND_HORIZON = text("""
    SELECT CAST(system_identifier AS text), CAST(CAST(pg_snapshot_xmin(snapshot) AS text) AS bigint),
        CAST(CAST(pg_snapshot_xmax(snapshot) AS text) AS bigint), xact, id, events
    FROM pg_control_system(), pg_current_snapshot() AS snapshot LEFT JOIN LATERAL (
        SELECT xact, id, events FROM event_batches
        WHERE xact < CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint)
        ORDER BY xact DESC, id DESC LIMIT 1
    ) AS newest ON true""")


async def find_horizon(connection: Connection) -> Horizon:
    """Return the end of what followers can read now."""
    [(cluster, oldest_open, following, xact, batch_id, events)] = await connection.execute(_FIND_HORIZON)
    last_event = UUID(int=batch_id.int + events - 1) if batch_id else FIRST
    return Horizon(cluster, oldest_open, following, xact or 0, last_event)


# In a running cluster no such batch is visible: its transaction would have a number already.
_RENUMBER = text("""
    WITH future AS (
        SELECT id FROM event_batches
        WHERE xact >= CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS text) AS bigint) LIMIT :limit)
    UPDATE event_batches SET xact = 0 WHERE id IN (SELECT id FROM future)""")


async def renumber_restored(connection: Connection, limit: int) -> int:
    """Show followers batches that a dump of another cluster has brought with it: those of transactions to come.

    Returns the number of batches, at most `limit`.
    """
    return await connection.change(_RENUMBER, {"limit": limit})


class OpenTransaction(msgspec.Struct, frozen=True):
    """The oldest open transaction; a field that this role may not see is None."""

    number: int
    seconds: float | None
    pid: int | None
    user: str | None
    application: str | None
    database: str | None
    state: str | None
    prepared: str | None
    """The name of a prepared transaction (PREPARE TRANSACTION)."""


# pg_locks shows every role the process that runs a transaction, by the lower 32 bits of its number.
_FIND_OLDEST = text("""
    SELECT CAST(CAST(xmin AS text) AS bigint),
        CAST(extract(epoch FROM clock_timestamp() - coalesce(xact_start, prepared)) AS float8),
        activity.pid, usename, application_name, coalesce(datname, prepared_xacts.database), state, gid
    FROM (SELECT pg_snapshot_xmin(snapshot) AS xmin, pg_snapshot_xmax(snapshot) AS xmax
            FROM pg_current_snapshot() AS snapshot) AS horizon
        LEFT JOIN pg_locks AS locks ON locktype = 'transactionid' AND mode = 'ExclusiveLock' AND granted
            AND transactionid = xid(xmin)
        LEFT JOIN pg_stat_activity AS activity ON activity.pid = locks.pid
        LEFT JOIN pg_prepared_xacts AS prepared_xacts ON transaction = xid(xmin)
    WHERE xmin < xmax""")


async def find_oldest_transaction(connection: Connection) -> OpenTransaction | None:
    """Return the oldest open transaction, or None."""
    row = await connection.first(_FIND_OLDEST)
    return OpenTransaction(*row) if row else None
